"""Requests answered one at a time: for models that can't be right in a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from burnish.engines.local.choices import ChoiceNode, find_likeliest
from burnish.engines.local.decoding import (
    AdapterScope,
    Batch,
    GenerationRequest,
    Prefix,
    active_adapter,
)

#: What the families call the state that a forward pass returns and takes.
_STATES = ("past_key_values", "cache_params", "state")


class SingleBatch(Batch):
    """Requests in flight side by side, each with a forward pass of its own."""

    def __init__(
        self, model: Any, scope: AdapterScope = active_adapter, keeps_cache: bool = True
    ) -> None:
        self.model, self.adapter_scope, self.keeps_cache = model, scope, keeps_cache
        self.requests: list[GenerationRequest] = []
        self.texts: list[_Text] = []

    def join(self, requests: Sequence[GenerationRequest], prefix: Prefix | None = None) -> None:
        """Read new requests and take their first tokens; prefixes are read with each prompt."""
        for request in requests:
            text = _Text(self.model, self.keeps_cache)
            self._read(request, text, list(request.ids))
            self.requests.append(request)
            self.texts.append(text)
        self._remove_finished()

    def step(self) -> None:
        """One more token for every request."""
        for request, text in zip(self.requests, self.texts, strict=True):
            self._read(request, text, [text.last])
        self._remove_finished()

    @torch.inference_mode()
    def _read(self, request: GenerationRequest, text: "_Text", ids: Sequence[int]) -> None:
        with self.adapter_scope([request.adapter]):
            logits = text.read(ids)
        text.last = request.sample_token(logits)

    def _remove_finished(self) -> None:
        stay = [place for place, request in enumerate(self.requests) if not request.finish]
        self.requests = [self.requests[place] for place in stay]
        self.texts = [self.texts[place] for place in stay]


@dataclass(eq=False)
class _Text:
    """The tokens that a model has read, and the state that it keeps of them."""

    model: Any
    keeps_cache: bool
    ids: list[int] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    last: int = -1

    def read(self, new: Sequence[int]) -> torch.Tensor:
        """Read more tokens; return the logits (vocabulary,) behind the last."""
        self.ids += new
        shown = list(new) if self.state else self.ids
        ids = torch.tensor([shown], device=self.model.device)
        output = self.model(input_ids=ids, use_cache=self.keeps_cache, **self.state)
        if self.keeps_cache:
            kept = {name: getattr(output, name, None) for name in _STATES}
            self.state = {name: state for name, state in kept.items() if state is not None}
        logits: torch.Tensor = output.logits[0, -1]
        return logits


class _RecomputedLogprobs:
    """Log-probabilities behind a prompt and some tokens more, each text read once."""

    def __init__(self, model: Any, prompt: Sequence[int]) -> None:
        self.model, self.prompt = model, prompt
        self.known: dict[tuple[int, ...], Mapping[int, float]] = {}

    def top_logprobs(self, behind: tuple[int, ...]) -> tuple[Mapping[int, float], float]:
        """All tokens, and what no other exceeds."""
        return self.all_logprobs(behind), 0.0

    @torch.inference_mode()
    def all_logprobs(self, behind: tuple[int, ...]) -> Mapping[int, float]:
        """All tokens."""
        if behind not in self.known:
            logits = _Text(self.model, keeps_cache=False).read([*self.prompt, *behind])
            self.known[behind] = dict(enumerate(logits.float().log_softmax(-1).tolist()))
        return self.known[behind]


def best_choice(model: Any, prompt: Sequence[int], tree: ChoiceNode) -> int:
    """Return the number of the likeliest choice of a tree behind one prompt."""
    return find_likeliest(tree, _RecomputedLogprobs(model, prompt))
