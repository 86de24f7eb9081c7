"""A model whose weights answer at another server, vLLM above all, as one more engine here.

The server is asked at /completions with our own tokens, never with messages: what the model was
trained on is what it is asked, whatever template lies over there.
"""

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, ClassVar

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from burnish.core.errors import BadRecipe, BurnishError
from burnish.core.progress import say
from burnish.core.recipe.serve import Upstream
from burnish.core.records import Message, TokenLogprob
from burnish.core.settings import secret
from burnish.engines.external.base import DEFAULT_LAUNCH, ExternalEngine
from burnish.engines.external.process import EngineFailed
from burnish.engines.local.decoding import GenerationRequest
from burnish.engines.registry import HEAD_ENGINES
from burnish.engines.remote.http import UpstreamClient, UpstreamRejected, UpstreamUnavailable
from burnish.models.artifact import NON_PEFT_ADAPTERS, find_base
from burnish.models.chat_template import encode_prompt, encode_text
from burnish.models.find_artifact import find_artifact
from burnish.models.load import load_tokenizer
from burnish.models.local_models import find_model

#: A conversation whose tokens say whether a server reads what it is sent.
_PROBE = (Message("user", "Straße 12, naïve café? {'a': [1, 2.50]}\n\n  Ж 漢 - end."),)

_SERVERS = "Serve the model with vLLM, or another server that takes prompts as tokens."


class UpstreamEngine(ExternalEngine):
    """Answers with a model of a server elsewhere. `close` ends the connections."""

    supports_grammars: ClassVar[bool] = True
    child: UpstreamClient

    def __init__(
        self,
        name: str,
        settings: Upstream,
        tokenizer: PreTrainedTokenizerBase,
        system: str | None,
        context_length: int,
    ) -> None:
        """The server need not be there yet. Raises BadRecipe if its key is named and isn't."""
        super().__init__(name, tokenizer, system, DEFAULT_LAUNCH)
        key = secret(settings.key_from) if settings.key_from else None
        if settings.key_from and not key:
            raise BadRecipe(
                f"The environment variable {settings.key_from} is empty.",
                f"Put the key of {settings.url} into it; burnish never writes it down.",
            )
        self.model = settings.model or name
        self.slots, self.vocabulary = settings.slots, len(tokenizer)
        self.context_length = context_length
        self.child = UpstreamClient(f"The upstream of {name}", settings.url, key, settings.timeout)
        self._proven = False

    @property
    def memory_bytes(self) -> int:
        """The weights take nothing here."""
        return 0

    def ensure_alive(self) -> None:
        """Before the first request, and the first after it was out of reach: prove that the server
        has the model and reads our tokens. Raises EngineFailed."""
        if not self._proven:
            self._check_model()
            self._check_tokens()
            self._proven = True

    def choose(self, request: GenerationRequest) -> None:
        """One of the choices, as the server holds its answer to them.

        `guided_choice` is burnish's word and that of vLLM before 0.12, `structured_outputs` of vLLM
        since; a server that knows neither is found out.
        """
        told = {request.answer_prefix + choice: choice for choice in request.prompt.choices}
        made = {text: encode_text(self.tokenizer, text) for text in told}
        said = self.child.ask(
            "/completions",
            {
                **self._base_body(request.ids, max(map(len, made.values())) + 1),
                "guided_choice": [*told],
                "structured_outputs": {"choice": [*told]},
            },
        )
        text = said["choices"][0]["text"]
        if text not in made:
            raise EngineFailed(
                f"{self.child.name} doesn't hold an answer to given texts: it said {text[:80]!r}.",
                "Ask without `guided_choice`, or serve the run itself.",
            )
        request.text, request.token_ids, request.finish = told[text], made[text], "stop"

    def generate(self, request: GenerationRequest) -> Generator[None]:
        """A free answer, as the server streams it; its tokens are counted by the server."""
        ended, pieces = "", 0
        try:
            with closing(self.child.stream("/completions", self._request_body(request))) as said:
                for one in said:
                    if one:
                        choice = (one.get("choices") or [{}])[0]
                        text, logprobs = choice.get("text") or "", choice.get("logprobs")
                        pieces += bool(text)
                        if logprobs:
                            shown = request.prompt.top_logprobs or 0
                            request.logprobs += _parse_logprobs(logprobs, shown)
                        counted = (one.get("usage") or {}).get("completion_tokens")
                        request.feed(text, counted or pieces)
                        ended = choice.get("finish_reason") or ended
                    yield
        except UpstreamUnavailable:
            self._proven = False  # what comes back may be another one
            raise
        if not ended and not request.finish:
            raise EngineFailed(f"{self.child.name} didn't say why its answer ends.", "Ask again.")
        request.finish = request.finish or ("length" if ended == "length" else "stop")
        if request.prompt.grammar and request.finish == "stop" and not _is_json(request.text):
            raise EngineFailed(
                f"{self.child.name} doesn't hold an answer to a schema.",
                "Ask without one, or serve the run itself.",
            )
        yield

    def _base_body(self, ids: Sequence[int], longest: int) -> dict[str, Any]:
        body = {"model": self.model, "prompt": list(ids), "max_tokens": longest, "temperature": 0}
        return {**body, "stop_token_ids": sorted(self.ends)}

    def _request_body(self, request: GenerationRequest) -> dict[str, Any]:
        """A request in the words of the server."""
        prompt = request.prompt
        body = {
            **self._base_body(request.ids, prompt.max_new_tokens),
            "temperature": prompt.temperature,
            "top_p": prompt.top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if prompt.stop:
            body["stop"] = list(prompt.stop)
        if prompt.seed is not None:
            body["seed"] = prompt.seed
        if prompt.top_logprobs is not None:
            body["logprobs"] = prompt.top_logprobs
        if prompt.grammar:
            schema = {"name": "answer", "schema": _schema_from_grammar(prompt.grammar)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _check_model(self) -> None:
        try:
            cards = {card["id"]: card for card in self.child.ask("/models")["data"]}
        except (KeyError, TypeError) as fault:
            raise EngineFailed(f"{self.child.name} doesn't list its models.") from fault
        if self.model not in cards:
            raise EngineFailed(
                f"{self.child.name} has no model `{self.model}`; it has {', '.join(cards)}.",
                "Whoever runs this server: name one of them as `model` of the upstream.",
            )
        if told := cards[self.model].get("max_model_len"):
            self.context_length = min(self.context_length, int(told))

    def _check_tokens(self) -> None:
        """It reads as many tokens as it is sent, and they mean the same text, if it tells that."""
        ids = encode_prompt(self.tokenizer, _PROBE)
        try:
            said = self.child.ask("/completions", self._base_body(ids, 1))
        except UpstreamRejected as fault:
            raise EngineFailed(
                f"{self.child.name} doesn't take a prompt as tokens: {fault.what}", _SERVERS
            ) from fault
        read = (said.get("usage") or {}).get("prompt_tokens")
        if read != len(ids):
            raise EngineFailed(
                f"{self.child.name} read {read} tokens where it was sent {len(ids)}: it would not "
                "be asked what the model was trained on.",
                _SERVERS,
            )
        root = self.child.url.removesuffix("/v1")
        try:
            said = self.child.ask(f"{root}/detokenize", {"model": self.model, "tokens": ids})
        except EngineFailed:  # not every server has that
            return
        text = said.get("prompt", said.get("content", ""))
        if "".join(text.split()) != "".join(str(self.tokenizer.decode(ids)).split()):
            raise EngineFailed(
                f"The tokens of {self.child.name} mean other texts than those of {self.name} here.",
                "Whoever runs this server: `source` of the upstream must be the model over there.",
            )


def open_upstream(name: str, settings: Upstream) -> UpstreamEngine:
    """The engine of an upstream; its server need not be there yet.

    Raises NotFound if its source isn't here; BadRecipe if that is no language model that another
    server could hold, or if its key is missing.
    """
    source = settings.source or name
    artifact = find_artifact(source)
    if artifact is None:
        local = find_model(source)
        if local.kind != "causal":
            raise BadRecipe(f"{source} is no language model.", "Name one as `source`.")
        return UpstreamEngine(name, settings, load_tokenizer(local), None, local.context_length)
    if (
        artifact.kind in HEAD_ENGINES
        or artifact.kind in NON_PEFT_ADAPTERS
        or artifact.kind in ("embedder", "reward")
    ):
        raise BadRecipe(
            f"{source} is of the kind {artifact.kind}, which no other server can answer with.",
            "Serve it here, without an upstream.",
        )
    tokenizer = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
    context = find_base(artifact).context_length
    return UpstreamEngine(name, settings, tokenizer, artifact.system, context)


def open_upstreams(table: Mapping[str, Upstream]) -> dict[str, UpstreamEngine]:
    """The engines of a table of upstreams, by name. One that can't be used now is said, and asked
    again with its first request. Raises what `open_upstream` raises."""
    engines = {name: open_upstream(name, settings) for name, settings in table.items()}
    for name, engine in engines.items():
        try:
            engine.ensure_alive()
        except BurnishError as fault:
            say(f"{name} at {table[name].url} can't answer yet: {fault}")
        else:
            say(f"{name} is answered by {engine.model} at {table[name].url}.")
    return engines


def _schema_from_grammar(grammar: str) -> dict[str, Any]:
    """The JSON Schema that `engines.grammar` has made a grammar of."""
    schema: dict[str, Any] = json.loads(grammar)["grammars"][0]["json_schema"]
    return {key: value for key, value in schema.items() if key != "x-guidance"}


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parse_logprobs(told: Mapping[str, Any], shown: int) -> list[TokenLogprob]:
    """What the server says of each token; `shown` others beside it, the likeliest first."""
    found = []
    tops = told.get("top_logprobs") or [None] * len(told["tokens"])
    for token, logprob, top in zip(told["tokens"], told["token_logprobs"], tops, strict=True):
        ordered = sorted((top or {}).items(), key=lambda pair: -pair[1])[:shown]
        found.append(TokenLogprob(token, float(logprob), tuple(ordered)))
    return found
