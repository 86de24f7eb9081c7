"""Rows without padding, and a prefix that all rows share computed once.

A micro-batch is one flat sequence: the shared prefix, then every row behind it. Only attention
knows where rows begin; all other layers see real tokens and nothing else. Each row attends to the
prefix and to itself, and its positions go on where the prefix ends, so the result is the one that
the rows would give alone, and the prefix's gradient is the sum over the rows by itself. With an
empty prefix this is plain packing without cross-contamination.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from burnish.models.chat import Encoded


@dataclass(frozen=True, slots=True)
class Layout:
    """Where rows lie in a flat sequence of `prefix + sum(row lengths)` tokens.

    `gather` (rows, longest) holds each row's flat positions, padded with the row's last one;
    `scatter` leads back from the padded rows, and from anywhere for the tokens behind the last row
    that only make the length round; `bias` (1, longest,
    prefix + longest) is 0 where a token may look and -inf behind it. Padding lies behind its row,
    so no real token ever looks at it and one bias serves all rows.
    """

    prefix: int
    gather: torch.Tensor
    scatter: torch.Tensor
    bias: torch.Tensor

    def to(self, device: torch.device | str) -> "Layout":
        """The same on another device."""
        moved = (part.to(device) for part in (self.gather, self.scatter, self.bias))
        return Layout(self.prefix, *moved)


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch: flat tokens, positions, and what is learnt where.

    `ids` and `positions` have shape (1, tokens). `predicts` are the flat positions whose next token
    is learnt, `targets` those next tokens, `weights` their loss weights.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    predicts: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    layout: Layout

    @property
    def tokens(self) -> int:
        """Tokens that the layers see."""
        return int(self.ids.shape[1])


def shared_prefix(rows: Sequence[Encoded]) -> int:
    """Length of the longest beginning that all rows share and none of them learns.

    At least one token is left to each row, so that every row has a place to predict from.
    """
    if len(rows) < 2:
        return 0
    first = min(rows, key=lambda row: len(row.ids))
    last = len(first.ids) - 1
    for row in rows:
        same = 0
        while same < last and row.ids[same] == first.ids[same] and row.weights[same] == 0:
            same += 1
        last = same
    return last


def flatten(rows: Sequence[Encoded], device: torch.device | str = "cpu") -> Batch:
    """Lay rows out behind their shared prefix."""
    prefix = shared_prefix(rows)
    ids, positions = list(rows[0].ids[:prefix]), list(range(prefix))
    predicts, targets, weights, starts = [], [], [], []
    for row in rows:
        starts.append(len(ids))
        for place in range(prefix, len(row.ids)):
            if row.weights[place] > 0 and place > 0:
                before = len(ids) - 1 if place > prefix else prefix - 1
                predicts.append(before)
                targets.append(row.ids[place])
                weights.append(row.weights[place])
            ids.append(row.ids[place])
            positions.append(place)
    lengths = [len(row.ids) - prefix for row in rows]
    spare, unlearnt = rounded(len(ids)) - len(ids), rounded(len(predicts)) - len(predicts)
    layout = _layout(prefix, torch.tensor(starts), torch.tensor(lengths), spare)
    return Batch(
        ids=torch.tensor([ids + spare * ids[-1:]], device=device),
        positions=torch.tensor([positions + spare * [0]], device=device),
        predicts=torch.tensor(predicts + unlearnt * [0], device=device),
        targets=torch.tensor(targets + unlearnt * [0], device=device),
        weights=torch.tensor(weights + unlearnt * [0.0], device=device),
        layout=layout.to(device),
    )


def rounded(count: int) -> int:
    """The next length of which there are few: 16 in each doubling, and multiples of 16.

    oneDNN makes and keeps code for every shape that it meets, about 1 MB each time; rows of any
    length would fill gigabytes with it.
    """
    unit = max(1 << max(count.bit_length() - 5, 0), 16)
    return -(-count // unit) * unit


def _layout(prefix: int, starts: torch.Tensor, lengths: torch.Tensor, spare: int) -> Layout:
    longest = rounded(int(lengths.max()))
    inside = torch.arange(longest)
    gather = starts[:, None] + torch.minimum(inside[None], lengths[:, None] - 1)
    real = inside[None] < lengths[:, None]
    scatter = torch.nonzero(real.flatten()).flatten()
    bias = torch.full((1, longest, prefix + longest), -torch.inf).triu(prefix + 1)
    return Layout(prefix, gather, torch.nn.functional.pad(scatter, (0, spare)), bias)
