"""The ways from a micro-batch to the logits of its target tokens, the fastest first.

Packed: one flat sequence with a shared prefix, through attention of our own. Padded: the model's
own forward pass over rows padded on the right, which no earlier token of a causal model sees.
Single: the same, row by row. The logits are the product of hidden states with the head's weight,
computed a chunk at a time, or what the model itself computes from the states of target tokens.
Which of them a model takes is decided by proof (`forward.proof`) and noted on the model.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from burnish.core.errors import BadRecipe
from burnish.core.progress import say
from burnish.models.chat_template import TokenizedRow
from burnish.train.batching.examples import Example, all_answers
from burnish.train.batching.micro_batches import (
    count_computed_tokens,
    count_padded_tokens,
    micro_batches,
    padded_batches,
)
from burnish.train.batching.packed import PackedBatch
from burnish.train.kernels.packed_attention import ATTENTION

Rows = Literal["packed", "padded", "single"]
#: `linear`: states times a weight. `selected`: the model's own head on the states of target tokens.
#: `full`: the model's own head on all states.
Head = Literal["linear", "selected", "full"]


@dataclass(frozen=True, slots=True)
class ForwardPath:
    """How a model goes from a micro-batch to logits.

    `attention` is the implementation that the model is set to, by its name in `transformers`;
    `fused` says whether known layers are replaced. `scale` multiplies the states that a linear head
    reads. `reason` says why a faster path wasn't taken.
    """

    rows: Rows = "packed"
    head: Head = "linear"
    attention: str | None = ATTENTION
    fused: bool = True
    scale: float = 1.0
    reason: str = ""

    @property
    def is_packed(self) -> bool:
        """True if rows share one flat sequence and their prefix."""
        return self.rows == "packed"

    def describe(self) -> dict[str, Any]:
        """The path as a run's event names it."""
        return {
            "rows": self.rows,
            "head": self.head,
            "fused_layers": self.fused,
            "reason": self.reason,
        }


_FASTEST = ForwardPath()


def forward_path(model: Any) -> ForwardPath:
    """Return the path that was proven for a model, the fastest where none was asked for."""
    path: ForwardPath = getattr(model, "forward_path", _FASTEST)
    return path


def set_forward_path(model: Any, path: ForwardPath) -> None:
    """Note the path of a language model on it."""
    model.forward_path = path


def require_packed(model: Any, name: str, what: str) -> None:
    """Raise BadRecipe unless a model is on the packed path with a linear head; `what` needs it."""
    path = forward_path(model)
    if path.is_packed and path.head == "linear":
        return
    raise BadRecipe(
        f"{what} needs the packed forward path, on which {name} is not right"
        f"{f' ({path.reason})' if path.reason else ''}.",
        f"Leave it out of the recipe, or name another model than {name}.",
    )


def report_forward_path(model: Any, name: str) -> None:
    """Tell the person if a model is on a slower path, and why."""
    path = forward_path(model)
    if not path.is_packed:
        how = "padded rows" if path.rows == "padded" else "one row at a time"
        say(
            f"{name} is trained through its own forward pass, {how}, which is slower: on the "
            f"packed path {path.reason}."
        )


def batches_of(model: Any, rows: Sequence[Example], most_tokens: int) -> list[list[Example]]:
    """Cut rows into micro-batches of at most `most_tokens` tokens, as the model's path reads them;
    no row is cut."""
    batch = micro_batches if forward_path(model).is_packed else padded_batches
    return batch(rows, most_tokens)


def count_tokens(model: Any, rows: Sequence[Example]) -> int:
    """Tokens that the layers see when these rows are one micro-batch of the model's path."""
    packed = forward_path(model).is_packed
    return count_computed_tokens(rows) if packed else count_padded_tokens(rows)


def target_states(model: Any, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return (n, width) hidden states that predict the batch's targets and the head's weight
    (vocabulary, width), or their logits (n, vocabulary) and None.

    Only these positions reach the vocabulary, on all paths but the slowest.
    """
    path = forward_path(model)
    if path.head == "linear":
        states = _packed_states(model, batch)
        scaled = states if path.scale == 1 else states * path.scale
        return scaled, model.get_output_embeddings().weight
    return _LOGITS[path.rows](model, batch), None


def _packed_states(model: Any, batch: PackedBatch) -> torch.Tensor:
    # Sharded weights are gathered around a forward pass of their own (distributed.fsdp).
    hidden = getattr(model, "body", model.base_model)(
        input_ids=batch.ids,
        position_ids=batch.positions,
        use_cache=False,
        layout=batch.layout,
    ).last_hidden_state[0]
    chosen: torch.Tensor = hidden.index_select(0, batch.predict_positions)
    return chosen


def _packed_logits(model: Any, batch: PackedBatch) -> torch.Tensor:
    inputs = {"input_ids": batch.ids, "position_ids": batch.positions, "layout": batch.layout}
    return _select_logits(model, inputs, batch.predict_positions)


def _padded_logits(model: Any, batch: PackedBatch) -> torch.Tensor:
    rows = all_answers(batch.examples)
    longest = max(len(row.ids) for row in rows)
    ids = [[*row.ids, *(longest - len(row.ids)) * row.ids[-1:]] for row in rows]
    mask = [[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows]
    device = batch.ids.device
    inputs = {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }
    found = _target_positions(rows, [number * longest for number in range(len(rows))])
    return _select_logits(model, inputs, _pad_positions(found, batch))


def _single_logits(model: Any, batch: PackedBatch) -> torch.Tensor:
    parts = []
    for row in all_answers(batch.examples):
        ids = torch.tensor([row.ids], device=batch.ids.device)
        positions = torch.tensor(_target_positions([row], [0]), device=ids.device, dtype=torch.long)
        if len(positions):
            parts.append(_select_logits(model, {"input_ids": ids}, positions))
    logits = torch.cat(parts)
    spare = len(batch.targets) - len(logits)
    return torch.cat([logits, logits[:1].expand(spare, -1)])


#: How rows are laid out → the logits (n, vocabulary) of a batch's target tokens.
_LOGITS: dict[Rows, Callable[[Any, PackedBatch], torch.Tensor]] = {
    "packed": _packed_logits,
    "padded": _padded_logits,
    "single": _single_logits,
}


def _target_positions(rows: Sequence[TokenizedRow], begins: Sequence[int]) -> list[int]:
    """Positions that predict target tokens, in the order of `pack`, of rows that begin there."""
    return [
        begin + place - 1
        for row, begin in zip(rows, begins, strict=True)
        for place in range(1, len(row.ids))
        if row.weights[place] > 0
    ]


def _pad_positions(found: list[int], batch: PackedBatch) -> torch.Tensor:
    """The positions, filled up to the round number of a batch's targets, which weigh nothing."""
    spare = len(batch.targets) - len(found)
    return torch.tensor(found + spare * [0], device=batch.ids.device, dtype=torch.long)


def _select_logits(model: Any, inputs: dict[str, Any], positions: torch.Tensor) -> torch.Tensor:
    """Logits (n, vocabulary) at flat positions of (rows, longest) tokens, by the model itself."""
    if forward_path(model).head == "full":
        logits: torch.Tensor = model(**inputs, use_cache=False).logits
        return logits.flatten(0, 1).index_select(0, positions)
    with _head_reads(model, positions):
        selected: torch.Tensor = model(**inputs, use_cache=False).logits
    return selected[0]


@contextmanager
def _head_reads(model: Any, positions: torch.Tensor) -> Iterator[None]:
    """Within, the head reads the states (rows, longest, width) at flat positions only."""

    def select(_: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        states = arguments[0].flatten(0, -2).index_select(0, positions)
        return (states[None], *arguments[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
