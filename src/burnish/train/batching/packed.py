"""Rows without padding, and a prefix that all rows share computed once.

A micro-batch is one flat sequence: the shared prefix, then every row behind it. Only attention
knows where rows begin; all other layers see real tokens and nothing else. Each row attends to the
prefix and to itself, and its positions go on where the prefix ends, so the result is the one that
the rows would give alone, and the prefix's gradient is the sum over the rows by itself. With an
empty prefix this is plain packing without cross-contamination. What two neighbours have in common
beyond the prefix (two answers their question, two questions their passage, two rows of one
conversation its beginning) stands in the sequence once as well, and both look at it.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch

from burnish.core.prefix import shared_prefix_length
from burnish.models.chat_template import TokenizedRow
from burnish.train.batching.examples import Example, all_answers

#: Rows look back together that share as many tokens with those before them, rounded down to this
#: (a few of them look once more, and there are few shapes), and whose own tokens are as many, to a
#: factor of 2 or in total less than this.
_LEVEL, _SHORT = 16, 64


@dataclass(frozen=True)
class PackedPart:
    """Rows that have about as much in common with those before them, and look back together.

    `before` (rows, known) are their flat positions between the prefix and what is their own, and
    `own` (rows, longest) those of the rest, padded with the row's last one.
    """

    context_positions: torch.Tensor
    row_positions: torch.Tensor
    prefix: int

    @cached_property
    def visible_positions(self) -> torch.Tensor:
        """(rows, known + longest): the flat positions behind the prefix of all that a row sees."""
        return torch.cat([self.context_positions, self.row_positions], 1)

    @cached_property
    def bias(self) -> torch.Tensor:
        """(1, longest, prefix + known + longest): 0 where a token may look and -inf behind it.
        Padding lies behind its row, so no real token ever looks at it and one bias serves all."""
        return make_causal_bias(
            self.row_positions.shape[1],
            self.prefix + self.context_positions.shape[1],
            self.row_positions.device,
        )

    def to(self, device: torch.device | str) -> "PackedPart":
        """The same on another device."""
        return PackedPart(
            self.context_positions.to(device), self.row_positions.to(device), self.prefix
        )


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """Where rows lie in a flat sequence: the shared prefix, then what each has of its own.

    `gather` (rows, longest) holds each row's flat positions behind the prefix, padded with the
    row's last one; rows that share a question hold the same ones. `parts` are the same rows as
    attention goes through them, and `scatter` leads back from their padded rows, one part behind
    the other, and from anywhere for the tokens behind the last row that only make the length round.
    """

    prefix: int
    gather: torch.Tensor
    parts: tuple[PackedPart, ...]
    scatter: torch.Tensor

    @property
    def tokens(self) -> int:
        """Length of the flat sequence."""
        return self.prefix + len(self.scatter)

    def to(self, device: torch.device | str) -> "PackedLayout":
        """The same on another device."""
        return replace(
            self,
            gather=self.gather.to(device),
            parts=tuple(part.to(device) for part in self.parts),
            scatter=self.scatter.to(device),
        )


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One micro-batch: flat tokens, positions, and what is learnt where.

    `ids` and `positions` have shape (1, tokens). `predicts` are the flat positions whose next token
    is learnt, `targets` those next tokens, `weights` their loss weights, and `owners` the numbers
    of the answers that they belong to, counted through all `examples`.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    predict_positions: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    answer_index: torch.Tensor
    layout: PackedLayout
    examples: Sequence[Example]

    @property
    def tokens(self) -> int:
        """Tokens that the layers see."""
        return int(self.ids.shape[1])


def count_shared_prefix(rows: Sequence[TokenizedRow]) -> int:
    """Length of the longest beginning that all rows share, whether they learn it or not.

    At least one token is left to each row, so that every row has a place to predict from.
    """
    if len(rows) < 2:
        return 0
    return shared_prefix_length([row.ids for row in rows])


def pack(examples: Sequence[Example], device: torch.device | str = "cpu") -> PackedBatch:
    """Lay rows out behind their shared prefix, each behind what the row before it has of it."""
    rows = all_answers(examples)
    known = count_known_tokens(rows)
    prefix = known[0]
    ids, positions = list(rows[0].ids[:prefix]), list(range(prefix))
    paths: list[list[int]] = []
    learnt = []
    for row, shared in zip(rows, known, strict=True):
        path = paths[-1][:shared] if paths else list(range(prefix))
        for place in range(shared, len(row.ids)):
            path.append(len(ids))
            ids.append(row.ids[place])
            positions.append(place)
        learnt += [
            (path[place - 1], row.ids[place], row.weights[place], len(paths))
            for place in range(1, len(row.ids))
            if row.weights[place] > 0
        ]
        paths.append(path)
    spare, unlearnt = (
        round_up_length(len(ids)) - len(ids),
        round_up_length(len(learnt)) - len(learnt),
    )
    learnt += unlearnt * [(0, 0, 0.0, 0)]
    predicts, targets, weights, owners = (list(part) for part in zip(*learnt, strict=True))
    return PackedBatch(
        ids=torch.tensor([ids + spare * ids[-1:]], device=device),
        positions=torch.tensor([positions + spare * [0]], device=device),
        predict_positions=torch.tensor(predicts, device=device),
        targets=torch.tensor(targets, device=device),
        weights=torch.tensor(weights, device=device),
        answer_index=torch.tensor(owners, device=device),
        layout=_make_layout(paths, known, spare).to(device),
        examples=examples,
    )


def count_known_tokens(rows: Sequence[TokenizedRow]) -> list[int]:
    """Of each row, how many tokens stand in the batch before it: of the first the prefix that all
    share, of another what the row before it has too."""
    prefix = count_shared_prefix(rows)
    return [prefix, *(max(prefix, count_shared_prefix(pair)) for pair in pairwise(rows))]


def round_up_length(count: int) -> int:
    """The next length of which there are few: 16 in each doubling, and multiples of 16.

    oneDNN makes and keeps code for every shape that it meets, about 1 MB each time; rows of any
    length would fill gigabytes with it.
    """
    unit = max(1 << max(count.bit_length() - 5, 0), 16)
    return -(-count // unit) * unit


def make_causal_bias(longest: int, before: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """(1, longest, before + longest): 0 where one of the last tokens may look, -inf behind it."""
    whole = torch.full((1, longest, before + longest), -torch.inf, device=device)
    return whole.triu(before + 1)


def _make_layout(paths: list[list[int]], known: list[int], spare: int) -> PackedLayout:
    """Of each path its flat positions, and how many of them stand there before it."""
    prefix = known[0]
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, (path, own) in enumerate(zip(paths, known, strict=True)):
        level = prefix + (own - prefix) // _LEVEL * _LEVEL
        alike[level, max(len(path) - level, _SHORT).bit_length()].append(number)
    parts: list[PackedPart] = []
    scatter: dict[int, int] = {}
    begin = 0
    for (level, _), rows in sorted(alike.items()):
        before = torch.tensor([paths[number][prefix:level] for number in rows], dtype=torch.long)
        rest = _pad_positions([paths[number][level:] for number in rows])
        parts.append(PackedPart(before, rest, prefix))
        for place, number in enumerate(rows):
            first = begin + place * rest.shape[1] - level
            for token in range(known[number], len(paths[number])):
                scatter[paths[number][token]] = first + token
        begin += rest.numel()
    back = [scatter[place] for place in sorted(scatter)] + spare * [0]
    return PackedLayout(
        prefix, _pad_positions([path[prefix:] for path in paths]), tuple(parts), torch.tensor(back)
    )


def _pad_positions(paths: list[list[int]]) -> torch.Tensor:
    """(rows, longest): each with its last position again, up to a round length."""
    longest = round_up_length(max(len(path) for path in paths))
    return torch.tensor([path + (longest - len(path)) * path[-1:] for path in paths])
