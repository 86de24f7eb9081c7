"""llama.cpp as an engine: its server in a child process, sent our own tokens.

Prompts are rendered and encoded by `models.chat_template`, as in training, and sent as token ids.
Choices are decided as in `engines.local.choices`, by log-probabilities that the server reports.
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

#: Number of top log-probabilities requested first; all of them where these don't decide.
_TOP_TOKENS = 40
#: Default of the longest context: keys and values take memory from the start.
_MAX_CONTEXT = 4096
#: Temperature and nucleus sampling only, in the order of `engines.local.decoding`.
_SAMPLING: Mapping[str, Any] = {"samplers": ["temperature", "top_p"], "top_k": 0, "min_p": 0}


class LlamaCppEngine(LogprobEngine):
    """Answers with a GGUF file. `close` ends its process."""

    def __init__(
        self,
        file: Path,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        system: str | None = None,
        launch_options: LaunchOptions = DEFAULT_LAUNCH,
        adapter: Path | None = None,
    ) -> None:
        """Start the server; `adapter` is a GGUF LoRA file. Raises Unavailable without xllamacpp,
        EngineFailed if a file can't be loaded."""
        if importlib.util.find_spec("xllamacpp") is None:
            raise Unavailable("llama.cpp needs xllamacpp.", "pip install 'burnish[llamacpp]'")
        super().__init__(name, tokenizer, system, launch_options)
        self.file, self.adapter, self.slots = file, adapter, launch_options.slots
        self._slot_pool = SlotPool(self.slots)
        self._letter = encode_text(tokenizer, "a")[0]
        self.child = self.start_process()
        props = self.child.ask("/props")
        server_context = int(props["default_generation_settings"]["n_ctx"])
        model = self.child.ask("/v1/models")["data"][0]["meta"]
        self.vocabulary, trained_context = int(model["n_vocab"]), int(model["n_ctx_train"])
        self.context_length = min(server_context, trained_context)

    def start_process(self) -> EngineProcess:
        """Start llama.cpp's own server. Raises EngineFailed."""
        parameters = {
            "model": str(self.file.absolute()),
            "context": self.launch_options.context or _MAX_CONTEXT,
            "slots": self.slots,
            "cache": self.launch_options.cache,
            "adapters": [str(self.adapter.absolute())] if self.adapter else [],
            "threads": self.launch_options.threads or torch.get_num_threads(),
        }
        return EngineProcess(
            "llama.cpp", ("burnish.engines.external.llamacpp_server", json.dumps(parameters))
        )

    @property
    def memory_bytes(self) -> int:
        """The size of the weights in bytes."""
        return self.file.stat().st_size

    def logprob_table(
        self, ids: Sequence[int], wanted: Sequence[int], ahead: int = 1, owner: str = ""
    ) -> "_LlamaCppLogprobs":
        """Return a table for any token; the server reports the likeliest tokens, or all."""
        return _LlamaCppLogprobs(self, ids, ahead, owner)

    def complete(self, ids: Sequence[int], owner: str = "", **settings: Any) -> dict[str, Any]:
        """Send one request in the server's own API (`POST /completion`)."""
        body = {**_SAMPLING, "prompt": list(ids), "return_tokens": True, **settings}
        with self._slot_pool.take(owner) as slot:
            return dict(self.child.ask("/completion", {**body, **_slot_fields(*slot)}))

    def generate(self, request: GenerationRequest) -> Generator[None]:
        """Generate a free answer, streamed; one with log-probabilities comes at once."""
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
            closing(self.child.stream("/completion", {**body, **_slot_fields(*slot)})) as events,
        ):
            for event in events:
                ended = event.get("stop_type") == "eos"
                request.feed(event["content"], event["tokens_predicted"] - ended)
                if event["stop"] and not request.finish:
                    request.finish = "stop" if ended else "length"
                yield

    def _answer_with_logprobs(self, request: GenerationRequest, shown: int) -> None:
        """Generate a whole answer with the log-probability of each token and `shown`
        alternatives."""
        response = self.complete(
            request.ids,
            request.owner,
            **_generation_fields(request),
            stop=list(request.prompt.stop),
            n_probs=max(shown, 1),
        )
        tokens: list[int] = response["tokens"]
        logprobs = self._logprobs(request, tokens, response, shown)
        for token, logprob in zip(tokens, logprobs, strict=True):
            if token in self.ends:
                request.finish = "stop"
            if request.finish:
                return
            request.logprobs.append(logprob)
            request.append_token(token)
        request.finish = request.finish or "length"

    def _logprobs(
        self,
        request: GenerationRequest,
        tokens: Sequence[int],
        response: Mapping[str, Any],
        shown: int,
    ) -> tuple[TokenLogprob, ...]:
        """Return the log-probability of each token of an answer.

        The server leaves out tokens that are half a character; then each is requested by itself.
        """
        entries = response.get("completion_probabilities", ())
        if len(entries) == len(tokens):
            return tuple(self._logprob(entry, shown) for entry in entries)
        results = []
        for position, token in enumerate(tokens):
            ids = [*request.ids, *tokens[:position]]
            entries = self.next_logprobs(ids, self.vocabulary, request.owner)
            entry = next(entry for entry in entries if entry["id"] == token)
            results.append(self._logprob({**entry, "top_logprobs": entries}, shown))
        return tuple(results)

    def next_logprobs(
        self, ids: Sequence[int], shown: int, owner: str = ""
    ) -> list[dict[str, Any]]:
        """Return the likeliest next tokens behind `ids`, as the server reports them.

        It reports nothing for a token that is half a character, so another token is forced; the
        reported probabilities are the model's own all the same.
        """
        bias = [[self._letter, 1e4]]
        response = self.complete(
            ids, owner, n_predict=1, temperature=0, n_probs=shown, logit_bias=bias
        )
        return list(response["completion_probabilities"][0]["top_logprobs"])

    def _logprob(self, entry: Mapping[str, Any], shown: int) -> TokenLogprob:
        top = tuple(
            (str(self.tokenizer.decode([alternative["id"]])), float(alternative["logprob"]))
            for alternative in entry["top_logprobs"][:shown]
        )
        return TokenLogprob(str(self.tokenizer.decode([entry["id"]])), float(entry["logprob"]), top)


def _generation_fields(request: GenerationRequest) -> dict[str, Any]:
    """Return answer length and sampling settings as the server's request fields."""
    prompt = request.prompt
    return {
        "n_predict": prompt.max_new_tokens,
        "temperature": prompt.temperature,
        "top_p": prompt.top_p,
        "seed": -1 if prompt.seed is None else prompt.seed % 2**32,
    }


def _slot_fields(number: int, may_reuse: bool) -> dict[str, Any]:
    """Return the fields that choose a slot, and clear it first if it may not be reused."""
    return {"id_slot": number} | ({} if may_reuse else {"cache_prompt": False})


class _LlamaCppLogprobs:
    """Log-probabilities of the next token behind a prompt and some further tokens, requested once.

    Each request returns the model's own `ahead` next tokens too: mostly those of the answer.
    """

    def __init__(
        self, engine: LlamaCppEngine, ids: Sequence[int], ahead: int = 1, owner: str = ""
    ) -> None:
        self.engine, self.ids, self.ahead, self.owner = engine, list(ids), ahead, owner
        self.known: dict[tuple[int, ...], dict[int, float]] = {}

    def top_logprobs(self, behind: tuple[int, ...]) -> tuple[dict[int, float], float]:
        """Return the likeliest tokens, and an upper bound for all others."""
        if behind not in self.known:
            self._look_ahead(behind)
        if behind not in self.known:
            self._keep(behind, self._next_logprobs(behind, _TOP_TOKENS))
        logs = self.known[behind]
        return logs, min(logs.values())

    def all_logprobs(self, behind: tuple[int, ...]) -> dict[int, float]:
        """Return the log-probabilities of the whole vocabulary."""
        if len(self.known.get(behind, ())) < self.engine.vocabulary:
            shown = self.engine.vocabulary
            self._keep(behind, self._next_logprobs(behind, shown))
        return self.known[behind]

    def _next_logprobs(self, behind: tuple[int, ...], shown: int) -> list[dict[str, Any]]:
        return self.engine.next_logprobs([*self.ids, *behind], shown, self.owner)

    def _look_ahead(self, behind: tuple[int, ...]) -> None:
        """Store the model's own continuation; skipped if the server has left a token out."""
        response = self.engine.complete(
            [*self.ids, *behind],
            self.owner,
            n_predict=self.ahead,
            temperature=0,
            n_probs=_TOP_TOKENS,
        )
        entries = response.get("completion_probabilities", ())
        if len(entries) == len(response["tokens"]):
            for entry in entries:
                self._keep(behind, entry["top_logprobs"])
                behind = (*behind, entry["id"])

    def _keep(self, behind: tuple[int, ...], entries: Sequence[Mapping[str, Any]]) -> None:
        self.known[behind] = {entry["id"]: entry["logprob"] for entry in entries}


def open_llama_cpp(
    artifact: Artifact, launch_options: LaunchOptions = DEFAULT_LAUNCH
) -> LlamaCppEngine:
    """Open the engine of an exported GGUF folder. Raises Unavailable, EngineFailed."""
    facts = artifact.lineage["export"]
    tokenizer = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
    name = str(artifact.lineage.get("run", artifact.path.name))
    adapter = artifact.path / str(facts["adapter"]) if "adapter" in facts else None
    file = artifact.path / str(facts["file"])
    return LlamaCppEngine(file, tokenizer, name, artifact.system, launch_options, adapter)
