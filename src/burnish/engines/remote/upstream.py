"""A model served by another server, such as vLLM, as an engine here.

The server is sent our own tokens at /completions, never messages: the model gets the tokens it was
trained on, whatever template the server has.
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

#: A conversation whose tokens show whether a server reads them as sent.
_PROBE = (Message("user", "Straße 12, naïve café? {'a': [1, 2.50]}\n\n  Ж 漢 - end."),)

_SERVERS = "Serve the model with vLLM, or another server that takes prompts as tokens."


class UpstreamEngine(ExternalEngine):
    """Answers with a model on a remote server. `close` ends the connections."""

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
        """Create the engine; the server need not be up yet. Raises BadRecipe if its key is named
        but empty."""
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
        """0: the weights take no local memory."""
        return 0

    def ensure_alive(self) -> None:
        """Check that the server has the model and reads our tokens: before the first request, and
        again after an outage. Raises EngineFailed."""
        if not self._proven:
            self._check_model()
            self._check_tokens()
            self._proven = True

    def choose(self, request: GenerationRequest) -> None:
        """Answer with one of the choices, enforced by the server.

        `guided_choice` is the field of burnish and of vLLM before 0.12, `structured_outputs` of
        vLLM since; a server that knows neither is detected.
        """
        choice_by_text = {
            request.answer_prefix + choice: choice for choice in request.prompt.choices
        }
        token_ids = {text: encode_text(self.tokenizer, text) for text in choice_by_text}
        response = self.child.ask(
            "/completions",
            {
                **self._base_body(request.ids, max(map(len, token_ids.values())) + 1),
                "guided_choice": [*choice_by_text],
                "structured_outputs": {"choice": [*choice_by_text]},
            },
        )
        text = response["choices"][0]["text"]
        if text not in token_ids:
            raise EngineFailed(
                f"{self.child.name} doesn't constrain answers to choices: it sent {text[:80]!r}.",
                "Send no `guided_choice`, or serve the run itself.",
            )
        request.text, request.token_ids, request.finish = (
            choice_by_text[text],
            token_ids[text],
            "stop",
        )

    def generate(self, request: GenerationRequest) -> Generator[None]:
        """Generate a free answer as the server streams it; the server counts its tokens."""
        finish_reason, pieces = "", 0
        try:
            with closing(self.child.stream("/completions", self._request_body(request))) as events:
                for event in events:
                    if event:
                        choice = (event.get("choices") or [{}])[0]
                        text, logprobs = choice.get("text") or "", choice.get("logprobs")
                        pieces += bool(text)
                        if logprobs:
                            shown = request.prompt.top_logprobs or 0
                            request.logprobs += _parse_logprobs(logprobs, shown)
                        token_count = (event.get("usage") or {}).get("completion_tokens")
                        request.feed(text, token_count or pieces)
                        finish_reason = choice.get("finish_reason") or finish_reason
                    yield
        except UpstreamUnavailable:
            self._proven = False  # after an outage it may be another server
            raise
        if not finish_reason and not request.finish:
            raise EngineFailed(f"{self.child.name} sent no finish reason.", "Ask again.")
        request.finish = request.finish or ("length" if finish_reason == "length" else "stop")
        if request.prompt.grammar and request.finish == "stop" and not _is_json(request.text):
            raise EngineFailed(
                f"{self.child.name} doesn't constrain answers to a schema.",
                "Send no schema, or serve the run itself.",
            )
        yield

    def _base_body(self, ids: Sequence[int], longest: int) -> dict[str, Any]:
        body = {"model": self.model, "prompt": list(ids), "max_tokens": longest, "temperature": 0}
        return {**body, "stop_token_ids": sorted(self.ends)}

    def _request_body(self, request: GenerationRequest) -> dict[str, Any]:
        """Return a request in the server's API."""
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
                "For the operator: name one of them as `model` of the upstream.",
            )
        if max_length := cards[self.model].get("max_model_len"):
            self.context_length = min(self.context_length, int(max_length))

    def _check_tokens(self) -> None:
        """Check that the server counts the tokens it is sent and, if it can detokenize, reads the
        same text."""
        ids = encode_prompt(self.tokenizer, _PROBE)
        try:
            response = self.child.ask("/completions", self._base_body(ids, 1))
        except UpstreamRejected as fault:
            raise EngineFailed(
                f"{self.child.name} doesn't take a prompt as tokens: {fault.what}", _SERVERS
            ) from fault
        read = (response.get("usage") or {}).get("prompt_tokens")
        if read != len(ids):
            raise EngineFailed(
                f"{self.child.name} counted {read} tokens of {len(ids)} sent: the model would not "
                "get the prompts it was trained on.",
                _SERVERS,
            )
        root = self.child.url.removesuffix("/v1")
        try:
            response = self.child.ask(f"{root}/detokenize", {"model": self.model, "tokens": ids})
        except EngineFailed:  # not every server has this endpoint
            return
        text = response.get("prompt", response.get("content", ""))
        if "".join(text.split()) != "".join(str(self.tokenizer.decode(ids)).split()):
            raise EngineFailed(
                f"{self.child.name} decodes tokens differently from {self.name} here.",
                "For the operator: `source` of the upstream must be the model that it serves.",
            )


def open_upstream(name: str, settings: Upstream) -> UpstreamEngine:
    """Open the engine of an upstream; its server need not be up yet.

    Raises NotFound if its source isn't here; BadRecipe if that isn't a language model that another
    server could hold, or if its key is missing.
    """
    source = settings.source or name
    artifact = find_artifact(source)
    if artifact is None:
        local = find_model(source)
        if local.kind != "causal":
            raise BadRecipe(f"{source} is not a language model.", "Name one as `source`.")
        return UpstreamEngine(name, settings, load_tokenizer(local), None, local.context_length)
    if (
        artifact.kind in HEAD_ENGINES
        or artifact.kind in NON_PEFT_ADAPTERS
        or artifact.kind in ("embedder", "reward")
    ):
        raise BadRecipe(
            f"{source} is a {artifact.kind} artifact, which no other server can serve.",
            "Serve it here, without an upstream.",
        )
    tokenizer = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
    context = find_base(artifact).context_length
    return UpstreamEngine(name, settings, tokenizer, artifact.system, context)


def open_upstreams(table: Mapping[str, Upstream]) -> dict[str, UpstreamEngine]:
    """Open the engines of a table of upstreams, by name.

    One that can't answer now is reported, and checked again at its first request. Raises what
    `open_upstream` raises.
    """
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
    """Return the JSON Schema from which `engines.local.grammar` made a grammar."""
    schema: dict[str, Any] = json.loads(grammar)["grammars"][0]["json_schema"]
    return {key: value for key, value in schema.items() if key != "x-guidance"}


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parse_logprobs(logprobs: Mapping[str, Any], shown: int) -> list[TokenLogprob]:
    """Return the server's log-probabilities, each with the `shown` likeliest alternatives."""
    results = []
    tops = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
    for token, logprob, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True
    ):
        ordered = sorted((top or {}).items(), key=lambda pair: -pair[1])[:shown]
        results.append(TokenLogprob(token, float(logprob), tuple(ordered)))
    return results
