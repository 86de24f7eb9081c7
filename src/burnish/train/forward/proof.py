"""Prove at start which forward path computes what the model's own forward pass does.

A few random rows go through the model itself, one at a time, with eager attention and none of our
layers; then through each path, the fastest first, alone and together in one micro-batch. The first
path whose log-probabilities and gradients are the same, but for rounding in the training's number
format, is taken. One row is longer than every attention window, for which windows are shortened.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from burnish.core.errors import BadRecipe
from burnish.models.chat_template import TokenizedRow
from burnish.models.load import lengths_of_ropes
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
    own_attention,
    representative_layers,
    set_attention,
    short_windows,
)
from burnish.train.batching.packed import pack
from burnish.train.forward.path import ForwardPath, forward_path, set_forward_path, target_states
from burnish.train.kernels.fused_layers import fuse, unfuse
from burnish.train.losses.linear import LinearLogProbs

#: Tokens of the proof's rows: what all share, what the last two share besides, and what each has of
#: its own. The first is longer than a tile of attention and, many times, than a short window.
_PREFIX, _SHARED, _OWN = 5, 20, (100, 30, 9, 17)

#: Number format → relative errors of log-probabilities and of gradients that rounding explains:
#: many times its unit roundoff (2^-24, 2^-8), as errors grow from layer to layer.
_TOLERANCES = {torch.float32: (1e-3, 5e-3), torch.bfloat16: (0.08, 0.2)}

#: Names in a configuration of what the logits are multiplied by, and how.
_LOGIT_SCALES = (("logits_scaling", -1), ("logit_scale", 1), ("lm_head_multiplier", 1))


@dataclass(frozen=True, slots=True)
class PathMeasurement:
    """Log-probabilities (n,) of target tokens, and each weight's gradient, summed along its first
    and its last dimension."""

    logprobs: torch.Tensor
    gradients: dict[str, torch.Tensor]

    def difference(self, expected: "PathMeasurement", dtype: torch.dtype) -> str:
        """Say what differs by more than rounding; nothing if nothing does."""
        bounds = _TOLERANCES.get(dtype, _TOLERANCES[torch.bfloat16])
        error = relative_error(self.logprobs, expected.logprobs, expected.logprobs.mean())
        if not error <= bounds[0]:
            return f"its log-probabilities differ by {error:.1%}"
        if missing := expected.gradients.keys() - self.gradients.keys():
            return f"{min(missing)} gets no gradient"
        largest = max((float(part.norm()) for part in expected.gradients.values()), default=0.0)
        for name, own in expected.gradients.items():
            error = float((self.gradients[name] - own).norm())
            # A gradient that is nothing but rounding has no direction to compare.
            if not error <= bounds[1] * (float(own.norm()) + 0.05 * largest):
                return f"the gradient of {name} differs by {error / float(own.norm()):.1%}"
        return ""


def choose_forward_path(
    model: Any, language: Any, name: str, longest: int = 0, virtual: Sequence[int] = ()
) -> ForwardPath:
    """Prove the fastest path that is right for `language`, the language model inside `model`, set
    it up and return it.

    `longest` is the length of the longest row to come, and `virtual` are tokens before every row.
    Weights and random states stay what they were. Raises BadRecipe if no path is right.
    """
    proof = _Proof(model, language, virtual)
    was_training = model.training
    model.eval()
    keep_quantized_weights(model)
    try:
        with torch.random.fork_rng(), short_windows(language), _stirred(model):
            path = proof.run(name, longest)
    finally:
        model.train(was_training)
        model.zero_grad(set_to_none=True)
    return path


class _Proof:
    """The rows, what the model itself makes of them, and the paths that are tried."""

    def __init__(self, model: Any, language: Any, virtual: Sequence[int]) -> None:
        self.model, self.language = model, language
        self.dtype = next(language.parameters()).dtype
        self.attention = own_attention(language)
        self.fused: list[torch.nn.Module] = []
        self.rows = _random_rows(language, virtual)

    def run(self, name: str, longest: int) -> ForwardPath:
        """Return the first path that is right, set up. Raises BadRecipe if none is."""
        reason = changes_with_length(self.language.config, longest)
        paths: Sequence[ForwardPath] = list(self._candidates(only_single=bool(reason)))
        exact = self.dtype != torch.float32 and not is_quantized(self.model)
        is_shallow = self._runs_with_few_layers()
        shallow = representative_layers(self.language) if is_shallow else nullcontext()
        with shallow, in_float32(self.model) if exact else nullcontext():
            paths, reason = self._first_right(paths, name, reason)
        if is_shallow or exact:
            self.rows = self.rows[1:]
            paths, reason = self._first_right(paths, name, reason)
        self._set_up(replace(paths[0], reason=reason))
        return forward_path(self.language)

    def _runs_with_few_layers(self) -> bool:
        """True if the model has fewer layers of each kind to be tried with, and runs with them."""
        ids = torch.tensor([self.rows[0].ids[:4]], device=self.language.device)
        with representative_layers(self.language) as is_shallow, torch.no_grad():
            try:
                self.language(input_ids=ids, use_cache=False)
            except MODEL_FAULTS as error:
                describe_fault(error)
                return False
        return is_shallow

    def _first_right(
        self, paths: Sequence[ForwardPath], name: str, reason: str
    ) -> tuple[Sequence[ForwardPath], str]:
        """Leave out the first paths that are wrong; return the others, and why the fastest is.

        Raises BadRecipe if all are.
        """
        try:
            expected = self._measure_itself(name)
        except NotCausal:
            raise
        except MODEL_FAULTS as error:
            raise BadRecipe(
                f"{name} can't be trained: its own forward pass fails ({describe_fault(error)}).",
                "Name another model.",
            ) from error
        for number, path in enumerate(paths):
            why = self._difference(path, expected)
            if not why:
                return paths[number:], reason
            reason = reason or why
        raise BadRecipe(
            f"{name} can't be trained: {reason}, against the model's own forward pass.",
            "Name another model, or another train.method.",
        )

    def _candidates(self, only_single: bool) -> Iterator[ForwardPath]:
        own, eager = self.attention, "eager"
        if not only_single:
            yield ForwardPath(scale=_logit_scale(self.language.config))
            yield ForwardPath(head="selected")
            yield ForwardPath(head="selected", fused=False)
            yield ForwardPath("padded", "selected", own)
            yield ForwardPath("padded", "selected", own, fused=False)
            yield ForwardPath("padded", "selected", eager, fused=False)
        yield ForwardPath("single", "selected", own)
        yield ForwardPath("single", "selected", eager, fused=False)
        yield ForwardPath("single", "full", eager, fused=False)

    def _difference(self, path: ForwardPath, expected: Sequence[PathMeasurement]) -> str:
        """Set a path up; say what differs on it from the model itself."""
        dtype = next(self.language.parameters()).dtype
        try:
            self._set_up(path)
            for rows, own in zip((self.rows[:1], self.rows), expected, strict=True):
                if why := self._measure(rows).difference(own, dtype):
                    return why if len(rows) == 1 else f"{why} when rows stand together"
        except MODEL_FAULTS as error:
            return describe_fault(error)
        return ""

    def _set_up(self, path: ForwardPath) -> None:
        unfuse(self.fused)
        self.fused = fuse(self.model) if path.fused else []
        set_attention(self.language, path.attention)
        set_forward_path(self.language, path)

    def _measure(self, rows: Sequence[TokenizedRow]) -> PathMeasurement:
        """Log-probabilities and gradients of one micro-batch on the path that is set up."""
        self.model.zero_grad(set_to_none=True)
        batch = pack(rows, self.language.device)
        with torch.set_grad_enabled(_learns(self.model)):
            states, head = target_states(self.language, batch)
            logprobs = LinearLogProbs.apply(states, head, batch.targets)
            loss = -(logprobs * batch.weights).sum()
        if loss.requires_grad:
            loss.backward()
        return self._measurement(logprobs[batch.weights > 0])

    def _measure_itself(self, name: str) -> tuple[PathMeasurement, PathMeasurement]:
        """The first row, and all rows, one at a time, by the model's own forward pass.

        Raises NotCausal if a prediction depends on tokens behind it.
        """
        unfuse(self.fused)
        set_attention(self.language, "eager" if self.attention is not None else None)
        self.model.zero_grad(set_to_none=True)
        found, logs = [], []
        first = None
        for row in self.rows:
            ids = torch.tensor([row.ids], device=self.language.device)
            with torch.set_grad_enabled(_learns(self.model)):
                logits = self.language(input_ids=ids, use_cache=False).logits[0, :-1]
                log = logits.float().log_softmax(-1)
                weights = torch.tensor(row.weights[1:], device=ids.device)
                targets = ids[0, 1:, None].clamp(min=0)
                chosen = log.gather(1, targets)[:, 0][weights > 0]
                if chosen.requires_grad:
                    (-chosen.sum()).backward()
            found.append(chosen.detach())
            logs.append(log.detach())
            first = first or self._measurement(chosen)
        self._check_causal(logs, name)
        assert first is not None
        return first, self._measurement(torch.cat(found))

    def _check_causal(self, logs: Sequence[torch.Tensor], name: str) -> None:
        same = len(self.rows[-1].ids) - _OWN[-1] - 1
        one, other = (log[:same] for log in logs[-2:])
        error = relative_error(one, other, other.mean())
        if not error <= _TOLERANCES.get(one.dtype, _TOLERANCES[torch.bfloat16])[0]:
            raise NotCausal.by_name(name)

    def _measurement(self, logprobs: torch.Tensor) -> PathMeasurement:
        grads = {
            name: torch.cat([weight.grad.sum(axis).flatten().float() for axis in (0, -1)])
            for name, weight in self.model.named_parameters()
            if weight.grad is not None
        }
        return PathMeasurement(logprobs.detach().float(), grads)


def changes_with_length(config: Any, longest: int) -> str:
    """Say so if rows of up to `longest` tokens change how others beside them are computed."""
    if any(longest > most for most in lengths_of_ropes(config.get_text_config())):
        return "its positions change for all rows of a batch with the longest"
    return ""


def _random_rows(language: Any, virtual: Sequence[int]) -> list[TokenizedRow]:
    """Four rows that begin alike; the last two have more in common."""
    text = language.config.get_text_config()
    room = getattr(text, "max_position_embeddings", None) or 1024
    lengths = [min(own, room - _PREFIX - _SHARED - len(virtual)) for own in _OWN]
    tokens = iter(random_tokens(int(text.vocab_size), _PREFIX + _SHARED + sum(lengths)))
    prefix, shared = ([next(tokens) for _ in range(count)] for count in (_PREFIX, _SHARED))
    rows = []
    for number, length in enumerate(lengths):
        common = [*prefix, *(shared if number > 1 else ())]
        ids = (*virtual, *common, *(next(tokens) for _ in range(length)))
        learnt = len(virtual) + _PREFIX
        rows.append(TokenizedRow(ids, (*learnt * (0.0,), *(len(ids) - learnt) * (1.0,))))
    return rows


def _logit_scale(config: Any) -> float:
    """What the product of states and head is multiplied by, of those that are known."""
    text, scale = config.get_text_config(), 1.0
    for name, power in _LOGIT_SCALES:
        scale *= float(getattr(text, name, None) or 1) ** power
    return scale


def _learns(model: torch.nn.Module) -> bool:
    return any(weight.requires_grad for weight in model.parameters())


@contextmanager
def _stirred(model: torch.nn.Module) -> Iterator[None]:
    """Within, trainable weights that are all 0, as a new adapter's are, have other values: what
    they pass on would be 0, whatever was computed."""
    draw = torch.Generator().manual_seed(0)
    zeros = [w for w in model.parameters() if w.requires_grad and not bool(w.any())]
    with torch.no_grad():
        for weight in zeros:
            noise = torch.randn(weight.shape, generator=draw) * weight.shape[-1] ** -0.5 * 0.1
            weight.copy_(noise)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight in zeros:
                weight.zero_()
