"""The ways a model answers, the fastest first, and the proof of the one that is taken.

Batched: requests of any length together over one cache, prefixes read once, choices as a tree.
Cached: one request at a time with the model's own cache. Recomputed: one at a time without a cache,
the whole text again for each token; slow, and right for any causal model. What a path gives for
fixed tokens is compared with the model's own forward pass, without a cache and with eager
attention, when a model is opened. Windows are shortened for it, so that short prompts are longer.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from burnish.core.errors import BadRecipe
from burnish.engines.local.choices import TreeCandidate, TreeReader, build_choice_tree
from burnish.engines.local.decoding import (
    AdapterScope,
    Batch,
    DecodingBatch,
    active_adapter,
    prefill,
    read_prefix,
)
from burnish.engines.local.kv_cache import ATTENTION, sliding_window_size
from burnish.engines.local.single import SingleBatch
from burnish.models.adapters.soft_prompts import required_virtual_ids
from burnish.models.proof.compare import (
    MODEL_FAULTS,
    NotCausal,
    describe_fault,
    random_tokens,
    relative_error,
)
from burnish.models.proof.reference import (
    in_float32,
    is_quantized,
    keep_quantized_weights,
    set_attention,
    short_windows,
)

Requests = Literal["batched", "cached", "recomputed"]

#: Tokens of the proof's prompts, the first longer than a short window, and of each answer.
_LENGTHS, _ANSWER = (40, 9, 22), 4
#: Tokens with which the prompts begin alike.
_PREFIX = 6
#: Number format → relative error of logits that rounding explains.
_TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.08}


@dataclass(frozen=True, slots=True)
class DecodingPath:
    """How a model answers. `prefixes` and `trees` say whether shared prefixes and choices in one
    pass are right; `attention` is the implementation by its name in `transformers`, and `reason`
    says why requests aren't batched."""

    requests: Requests = "batched"
    prefixes: bool = True
    trees: bool = True
    attention: str | None = ATTENTION
    reason: str = ""

    def new_batch(self, model: Any, scope: AdapterScope = active_adapter) -> Batch:
        """Return an empty batch whose requests this path answers."""
        if self.requests == "batched":
            return DecodingBatch(model, scope)
        return SingleBatch(model, scope, keeps_cache=self.requests == "cached")


def choose_decoding_path(model: Any, name: str) -> DecodingPath:
    """Prove the fastest path that is right for a model, set its attention and return the path.

    Raises BadRecipe if the model's own forward pass fails or no path is right.
    """
    was_training = model.training
    model.eval()
    keep_quantized_weights(model)
    narrow = next(model.parameters()).dtype != torch.float32 and not is_quantized(model)
    try:
        with torch.no_grad(), short_windows(model):
            with in_float32(model) if narrow else nullcontext():
                path = _first_right(model, name, _candidates())
            if narrow:
                path = _first_right(model, name, [path, *_SLOW])
    finally:
        model.train(was_training)
    set_attention(model, path.attention)
    return path


_SLOW_REQUESTS: tuple[Requests, ...] = ("cached", "recomputed")
#: One request at a time: as the model was written.
_SLOW = tuple(
    DecodingPath(requests, prefixes=False, trees=False, attention=attention)
    for requests in _SLOW_REQUESTS
    for attention in ("sdpa", "eager")
)


def _candidates() -> Iterator[DecodingPath]:
    for attention in (ATTENTION, "eager"):
        yield DecodingPath(attention=attention)
    yield from _SLOW


def _first_right(
    model: Any, name: str, paths: Iterator[DecodingPath] | Sequence[DecodingPath]
) -> DecodingPath:
    try:
        proof = _Proof(model)
        if not proof.is_causal():
            raise NotCausal.by_name(name)
    except NotCausal:
        raise
    except MODEL_FAULTS as error:
        raise BadRecipe(
            f"{name} can't answer here: its own forward pass fails ({describe_fault(error)}).",
            "Name another model.",
        ) from error
    reason = ""
    for path in paths:
        try:
            set_attention(model, path.attention)
            why = proof.difference_in_batch(path)
        except MODEL_FAULTS as error:
            why = describe_fault(error)
        if not why:
            return DecodingPath(
                path.requests,
                path.prefixes and proof.holds(proof.is_prefix_right),
                path.trees and proof.holds(proof.is_tree_right),
                path.attention,
                reason if path.requests != "batched" else "",
            )
        reason = reason or why
    raise BadRecipe(
        f"{name} can't answer here: {reason}, against the model's own forward pass.",
        "Name another model.",
    )


@dataclass(eq=False)
class _FixedRequest:
    """A request whose answer is known before: it notes the logits behind which each token came."""

    ids: Sequence[int]
    answer: Sequence[int]
    adapter: str | None = None
    finish: str = ""
    logits: list[torch.Tensor] = field(default_factory=list)

    def sample_token(self, logits: torch.Tensor) -> int:
        """Take the next token of the answer."""
        self.logits.append(logits.float())
        if len(self.logits) == len(self.answer):
            self.finish = "stop"
        return self.answer[len(self.logits) - 1]


class _Proof:
    """Prompts with their answers, and the logits that the model itself has behind each token."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.tolerance = _TOLERANCES.get(next(model.parameters()).dtype, 0.08)
        virtual = required_virtual_ids(model)
        total = _PREFIX + sum(_LENGTHS) + _ANSWER * len(_LENGTHS)
        vocabulary = int(model.config.get_text_config().vocab_size)
        tokens = iter(random_tokens(vocabulary, total))
        begin = [*virtual, *(next(tokens) for _ in range(_PREFIX))]
        self.prompts = [[*begin, *(next(tokens) for _ in range(size))] for size in _LENGTHS]
        # Those that join later and leave sooner have shorter answers.
        self.answers = [[next(tokens) for _ in range(_ANSWER - n)] for n in range(len(_LENGTHS))]
        self.begin = begin
        set_attention(model, "eager" if model.config._attn_implementation else None)
        both = list(zip(self.prompts, self.answers, strict=True))
        self.expected = [self._own_logits([*prompt, *answer]) for prompt, answer in both]

    def _own_logits(self, ids: Sequence[int]) -> torch.Tensor:
        """(tokens, vocabulary): the logits behind each token of a text."""
        device = self.model.device
        output = self.model(input_ids=torch.tensor([ids], device=device), use_cache=False)
        logits: torch.Tensor = output.logits[0].float()
        return logits

    def is_causal(self) -> bool:
        """True if the logits of a prompt are the same without its answer."""
        prompt = self.prompts[0]
        return self._is_right(self._own_logits(prompt), self.expected[0][: len(prompt)])

    def _is_right(self, found: torch.Tensor, expected: torch.Tensor) -> bool:
        return relative_error(found, expected, expected.mean()) <= self.tolerance

    def difference_in_batch(self, path: DecodingPath) -> str:
        """Say what differs when two prompts begin together, and a third joins them."""
        requests = self._requests()
        batch = path.new_batch(self.model)
        batch.join(requests[:2])  # type: ignore[arg-type]
        batch.step()
        batch.join(requests[2:])  # type: ignore[arg-type]
        while batch.requests:
            batch.step()
        return "" if self._all_right(requests) else "a batch of prompts gives other logits"

    def _requests(self) -> list[_FixedRequest]:
        both = zip(self.prompts, self.answers, strict=True)
        return [_FixedRequest(prompt, answer) for prompt, answer in both]

    def _all_right(self, requests: Sequence[_FixedRequest]) -> bool:
        return all(
            self._is_right(logits, own[len(request.ids) - 1 + number])
            for request, own in zip(requests, self.expected, strict=True)
            for number, logits in enumerate(request.logits)
        )

    def holds(self, check: Any) -> bool:
        """True if a check runs and is passed."""
        try:
            return bool(check())
        except MODEL_FAULTS as error:
            describe_fault(error)
            return False

    def is_prefix_right(self) -> bool:
        """True if prompts behind a prefix that was read once give the same logits."""
        # A layer that sees some tokens back counts columns, and the shorter rows have a gap there.
        if sliding_window_size(self.model.config):
            return False
        requests = self._requests()
        batch = DecodingBatch(self.model)
        batch.join(requests, read_prefix(self.model, self.begin))  # type: ignore[arg-type]
        while batch.requests:
            batch.step()
        return self._all_right(requests)

    def is_tree_right(self) -> bool:
        """True if tokens of several branches in one pass have the log-probabilities of each."""
        branches = [[one, other, 0] for one in self.answers[0][:2] for other in self.answers[0][2:]]
        trees = [build_choice_tree(branches) for _ in self.prompts]
        cache, mask, _ = prefill(self.model, self.prompts)
        reader = TreeReader(self.model, cache, mask)
        due = [[TreeCandidate(node, 0.0, (), (node,)) for node in tree.children.values()]
               for tree in trees]  # fmt: skip
        first = [list(logs) for logs in reader.read(due)]
        deeper = [
            [TreeCandidate(node, 0.0, place.columns, (node,))
             for place in places for node in place.node.children.values()]
            for places in due
        ]  # fmt: skip
        second = [list(logs) for logs in reader.read(deeper)]
        return all(
            self._branches_right(prompt, branches, [*one, *other])
            for prompt, one, other in zip(self.prompts, first, second, strict=True)
        )

    def _branches_right(
        self, prompt: Sequence[int], branches: Sequence[Sequence[int]], logs: list[list[float]]
    ) -> bool:
        """Of one prompt: the log-probabilities behind the first tokens, then behind the second."""
        own = [self._own_logits([*prompt, *tokens])[-3:].log_softmax(-1) for tokens in branches]
        heads = list(dict.fromkeys(tokens[0] for tokens in branches))
        expected = [
            [float(log[0, tokens[1]]) for log, tokens in zip(own, branches, strict=True)
             if tokens[0] == head]
            for head in heads
        ]  # fmt: skip
        expected += [[float(log[1, 0])] for log in own]
        found = torch.tensor([number for part in logs for number in part])
        wanted = torch.tensor([number for part in expected for number in part])
        return bool(((found - wanted).abs() <= 10 * self.tolerance * (1 + wanted.abs())).all())
