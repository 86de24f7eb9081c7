"""llama.cpp behind the engine's protocol: its server in a child, asked with our own tokens.

What the model was trained on is what it is asked: prompts are rendered and encoded by
`models.chat`, and go over as token numbers. Exactly one of several texts is found as
`engines.choices` finds it, by log-probabilities that the server tells.
"""

import importlib.util
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from burnish.core.errors import Unavailable
from burnish.core.records import TokenLogprob
from burnish.engines.external.base import DEFAULT_LAUNCH, LaunchOptions, LogprobEngine
from burnish.engines.external.process import EngineProcess
from burnish.engines.external.slots import SlotPool
from burnish.engines.local.decoding import GenerationRequest
from burnish.models.artifact import Artifact
from burnish.models.chat_template import encode_text

#: Tokens whose log-probabilities are asked for at first; all of them where these don't decide.
_TOP_TOKENS = 40
#: Longest context that is asked for unless told otherwise: keys and values cost memory at once.
_MAX_CONTEXT = 4096
#: Nothing but temperature and nucleus, in the order of `engines.sampling`.
_SAMPLING: Mapping[str, Any] = {"samplers": ["temperature", "top_p"], "top_k": 0, "min_p": 0}


class LlamaCppEngine(LogprobEngine):
    """Answers with a GGUF file. `close` ends its process."""

    def __init__(
        self,
        file: Path,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        system: str | None = None,
        running: LaunchOptions = DEFAULT_LAUNCH,
        adapter: Path | None = None,
    ) -> None:
        """`adapter` is a GGUF LoRA file. Raises Unavailable without xllamacpp, EngineFailed if a
        file can't be loaded."""
        if importlib.util.find_spec("xllamacpp") is None:
            raise Unavailable("llama.cpp needs xllamacpp.", "pip install 'burnish[llamacpp]'")
        super().__init__(name, tokenizer, system, running)
        self.file, self.adapter, self.slots = file, adapter, running.slots
        self._slot_pool = SlotPool(self.slots)
        self._letter = encode_text(tokenizer, "a")[0]
        self.child = self.start_process()
        props = self.child.ask("/props")
        room = int(props["default_generation_settings"]["n_ctx"])
        model = self.child.ask("/v1/models")["data"][0]["meta"]
        self.vocabulary, trained = int(model["n_vocab"]), int(model["n_ctx_train"])
        self.context_length = min(room, trained)

    def start_process(self) -> EngineProcess:
        """llama.cpp's own server. Raises EngineFailed."""
        asked = {
            "model": str(self.file.absolute()),
            "context": self.launch_options.context or _MAX_CONTEXT,
            "slots": self.slots,
            "cache": self.launch_options.cache,
            "adapters": [str(self.adapter.absolute())] if self.adapter else [],
            "threads": self.launch_options.threads or torch.get_num_threads(),
        }
        return EngineProcess(
            "llama.cpp", ("burnish.engines.external.llamacpp_server", json.dumps(asked))
        )

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights."""
        return self.file.stat().st_size

    def logprob_table(
        self, ids: Sequence[int], wanted: Sequence[int], ahead: int = 1, owner: str = ""
    ) -> "_LlamaCppLogprobs":
        """Whatever is wanted: the server tells the likeliest tokens, or all."""
        return _LlamaCppLogprobs(self, ids, ahead, owner)

    def complete(self, ids: Sequence[int], owner: str = "", **settings: Any) -> dict[str, Any]:
        """One request of the server's own kind (`POST /completion`)."""
        body = {**_SAMPLING, "prompt": list(ids), "return_tokens": True, **settings}
        with self._slot_pool.take(owner) as slot:
            return dict(self.child.ask("/completion", {**body, **_slot_fields(*slot)}))

    def generate(self, request: GenerationRequest) -> Generator[None]:
        """A free answer, as the server tells its text; one with log-probabilities comes at once."""
        if request.prompt.top_logprobs is not None:
            self._answer_with_logprobs(request, request.prompt.top_logprobs)
            yield
            return
        body = {
            **_SAMPLING,
            "prompt": list(request.ids),
            **_generation_fields(request),
            "stream": True,
        }
        with (
            self._slot_pool.take(request.owner) as slot,
            closing(self.child.stream("/completion", {**body, **_slot_fields(*slot)})) as said,
        ):
            for one in said:
                ended = one.get("stop_type") == "eos"
                request.feed(one["content"], one["tokens_predicted"] - ended)
                if one["stop"] and not request.finish:
                    request.finish = "stop" if ended else "length"
                yield

    def _answer_with_logprobs(self, request: GenerationRequest, shown: int) -> None:
        """A whole answer with the log-probability of each token, `shown` others beside it."""
        given = self.complete(
            request.ids,
            request.owner,
            **_generation_fields(request),
            stop=list(request.prompt.stop),
            n_probs=max(shown, 1),
        )
        tokens: list[int] = given["tokens"]
        logprobs = self._logprobs(request, tokens, given, shown)
        for token, told in zip(tokens, logprobs, strict=True):
            if token in self.ends:
                request.finish = "stop"
            if request.finish:
                return
            request.logprobs.append(told)
            request.append_token(token)
        request.finish = request.finish or "length"

    def _logprobs(
        self,
        request: GenerationRequest,
        tokens: Sequence[int],
        given: Mapping[str, Any],
        shown: int,
    ) -> tuple[TokenLogprob, ...]:
        """The log-probability of each token of an answer.

        The server leaves out tokens that are half a character; then each is asked for by itself.
        """
        told = given.get("completion_probabilities", ())
        if len(told) == len(tokens):
            return tuple(self._logprob(one, shown) for one in told)
        found = []
        for place, token in enumerate(tokens):
            ids = [*request.ids, *tokens[:place]]
            told = self.next_logprobs(ids, self.vocabulary, request.owner)
            own = next(one for one in told if one["id"] == token)
            found.append(self._logprob({**own, "top_logprobs": told}, shown))
        return tuple(found)

    def next_logprobs(
        self, ids: Sequence[int], shown: int, owner: str = ""
    ) -> list[dict[str, Any]]:
        """The likeliest next tokens behind `ids`, as the server tells them.

        It tells nothing about a token that is half a character, so another one is forced; what is
        told are the model's own probabilities all the same.
        """
        bias = [[self._letter, 1e4]]
        given = self.complete(
            ids, owner, n_predict=1, temperature=0, n_probs=shown, logit_bias=bias
        )
        return list(given["completion_probabilities"][0]["top_logprobs"])

    def _logprob(self, told: Mapping[str, Any], shown: int) -> TokenLogprob:
        top = tuple(
            (str(self.tokenizer.decode([one["id"]])), float(one["logprob"]))
            for one in told["top_logprobs"][:shown]
        )
        return TokenLogprob(str(self.tokenizer.decode([told["id"]])), float(told["logprob"]), top)


def _generation_fields(request: GenerationRequest) -> dict[str, Any]:
    """How long an answer may be, and how its tokens are drawn, in the server's words."""
    prompt = request.prompt
    return {
        "n_predict": prompt.max_new_tokens,
        "temperature": prompt.temperature,
        "top_p": prompt.top_p,
        "seed": -1 if prompt.seed is None else prompt.seed % 2**32,
    }


def _slot_fields(number: int, may_reuse: bool) -> dict[str, Any]:
    """The slot of a request, which reads the whole prompt anew if it may not reuse its last one."""
    return {"id_slot": number} | ({} if may_reuse else {"cache_prompt": False})


class _LlamaCppLogprobs:
    """Log-probabilities of the next token behind a prompt and some tokens more, asked for once.

    A question brings the model's own `ahead` next tokens with it: mostly those of the answer.
    """

    def __init__(
        self, engine: LlamaCppEngine, ids: Sequence[int], ahead: int = 1, owner: str = ""
    ) -> None:
        self.engine, self.ids, self.ahead, self.owner = engine, list(ids), ahead, owner
        self.known: dict[tuple[int, ...], dict[int, float]] = {}

    def top_logprobs(self, behind: tuple[int, ...]) -> tuple[dict[int, float], float]:
        """The likeliest tokens, and what no other token exceeds."""
        if behind not in self.known:
            self._look_ahead(behind)
        if behind not in self.known:
            self._keep(behind, self._next_logprobs(behind, _TOP_TOKENS))
        logs = self.known[behind]
        return logs, min(logs.values())

    def all_logprobs(self, behind: tuple[int, ...]) -> dict[int, float]:
        """All tokens of the vocabulary."""
        if len(self.known.get(behind, ())) < self.engine.vocabulary:
            shown = self.engine.vocabulary
            self._keep(behind, self._next_logprobs(behind, shown))
        return self.known[behind]

    def _next_logprobs(self, behind: tuple[int, ...], shown: int) -> list[dict[str, Any]]:
        return self.engine.next_logprobs([*self.ids, *behind], shown, self.owner)

    def _look_ahead(self, behind: tuple[int, ...]) -> None:
        """What the model goes on with; of no use if the server has left something out."""
        given = self.engine.complete(
            [*self.ids, *behind],
            self.owner,
            n_predict=self.ahead,
            temperature=0,
            n_probs=_TOP_TOKENS,
        )
        told = given.get("completion_probabilities", ())
        if len(told) == len(given["tokens"]):
            for one in told:
                self._keep(behind, one["top_logprobs"])
                behind = (*behind, one["id"])

    def _keep(self, behind: tuple[int, ...], told: Sequence[Mapping[str, Any]]) -> None:
        self.known[behind] = {one["id"]: one["logprob"] for one in told}


def open_llama_cpp(artifact: Artifact, running: LaunchOptions = DEFAULT_LAUNCH) -> LlamaCppEngine:
    """The engine of an exported GGUF folder. Raises Unavailable, EngineFailed."""
    facts = artifact.lineage["export"]
    tokenizer = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
    name = str(artifact.lineage.get("run", artifact.path.name))
    adapter = artifact.path / str(facts["adapter"]) if "adapter" in facts else None
    file = artifact.path / str(facts["file"])
    return LlamaCppEngine(file, tokenizer, name, artifact.system, running, adapter)
