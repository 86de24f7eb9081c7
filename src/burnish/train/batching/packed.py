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

from burnish.core.prefix import shared_length
from burnish.models.chat_template import Encoded
from burnish.train.batching.examples import Example, answers_of

#: Rows look back together that share as many tokens with those before them, rounded down to this
#: (a few of them look once more, and there are few shapes), and whose own tokens are as many, to a
#: factor of 2 or in total less than this.
_LEVEL, _SHORT = 16, 64


@dataclass(frozen=True)
class Part:
    """Rows that have about as much in common with those before them, and look back together.

    `before` (rows, known) are their flat positions between the prefix and what is their own, and
    `own` (rows, longest) those of the rest, padded with the row's last one.
    """

    before: torch.Tensor
    own: torch.Tensor
    prefix: int

    @cached_property
    def seen(self) -> torch.Tensor:
        """(rows, known + longest): the flat positions behind the prefix of all that a row sees."""
        return torch.cat([self.before, self.own], 1)

    @cached_property
    def bias(self) -> torch.Tensor:
        """(1, longest, prefix + known + longest): 0 where a token may look and -inf behind it.
        Padding lies behind its row, so no real token ever looks at it and one bias serves all."""
        return causal(self.own.shape[1], self.prefix + self.before.shape[1], self.own.device)

    def to(self, device: torch.device | str) -> "Part":
        """The same on another device."""
        return Part(self.before.to(device), self.own.to(device), self.prefix)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where rows lie in a flat sequence: the shared prefix, then what each has of its own.

    `gather` (rows, longest) holds each row's flat positions behind the prefix, padded with the
    row's last one; rows that share a question hold the same ones. `parts` are the same rows as
    attention goes through them, and `scatter` leads back from their padded rows, one part behind
    the other, and from anywhere for the tokens behind the last row that only make the length round.
    """

    prefix: int
    gather: torch.Tensor
    parts: tuple[Part, ...]
    scatter: torch.Tensor

    @property
    def tokens(self) -> int:
        """Length of the flat sequence."""
        return self.prefix + len(self.scatter)

    def to(self, device: torch.device | str) -> "Layout":
        """The same on another device."""
        return replace(
            self,
            gather=self.gather.to(device),
            parts=tuple(part.to(device) for part in self.parts),
            scatter=self.scatter.to(device),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch: flat tokens, positions, and what is learnt where.

    `ids` and `positions` have shape (1, tokens). `predicts` are the flat positions whose next token
    is learnt, `targets` those next tokens, `weights` their loss weights, and `owners` the numbers
    of the answers that they belong to, counted through all `examples`.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    predicts: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    owners: torch.Tensor
    layout: Layout
    examples: Sequence[Example]

    @property
    def tokens(self) -> int:
        """Tokens that the layers see."""
        return int(self.ids.shape[1])


def shared_prefix(rows: Sequence[Encoded]) -> int:
    """Length of the longest beginning that all rows share, whether they learn it or not.

    At least one token is left to each row, so that every row has a place to predict from.
    """
    if len(rows) < 2:
        return 0
    return shared_length([row.ids for row in rows])


def flatten(examples: Sequence[Example], device: torch.device | str = "cpu") -> Batch:
    """Lay rows out behind their shared prefix, each behind what the row before it has of it."""
    rows = answers_of(examples)
    known = known_lengths(rows)
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
    spare, unlearnt = rounded(len(ids)) - len(ids), rounded(len(learnt)) - len(learnt)
    learnt += unlearnt * [(0, 0, 0.0, 0)]
    predicts, targets, weights, owners = (list(part) for part in zip(*learnt, strict=True))
    return Batch(
        ids=torch.tensor([ids + spare * ids[-1:]], device=device),
        positions=torch.tensor([positions + spare * [0]], device=device),
        predicts=torch.tensor(predicts, device=device),
        targets=torch.tensor(targets, device=device),
        weights=torch.tensor(weights, device=device),
        owners=torch.tensor(owners, device=device),
        layout=_layout(paths, known, spare).to(device),
        examples=examples,
    )


def known_lengths(rows: Sequence[Encoded]) -> list[int]:
    """Of each row, how many tokens stand in the batch before it: of the first the prefix that all
    share, of another what the row before it has too."""
    prefix = shared_prefix(rows)
    return [prefix, *(max(prefix, shared_prefix(pair)) for pair in pairwise(rows))]


def rounded(count: int) -> int:
    """The next length of which there are few: 16 in each doubling, and multiples of 16.

    oneDNN makes and keeps code for every shape that it meets, about 1 MB each time; rows of any
    length would fill gigabytes with it.
    """
    unit = max(1 << max(count.bit_length() - 5, 0), 16)
    return -(-count // unit) * unit


def causal(longest: int, before: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """(1, longest, before + longest): 0 where one of the last tokens may look, -inf behind it."""
    whole = torch.full((1, longest, before + longest), -torch.inf, device=device)
    return whole.triu(before + 1)


def _layout(paths: list[list[int]], known: list[int], spare: int) -> Layout:
    """Of each path its flat positions, and how many of them stand there before it."""
    prefix = known[0]
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, (path, own) in enumerate(zip(paths, known, strict=True)):
        level = prefix + (own - prefix) // _LEVEL * _LEVEL
        alike[level, max(len(path) - level, _SHORT).bit_length()].append(number)
    parts: list[Part] = []
    scatter: dict[int, int] = {}
    begin = 0
    for (level, _), rows in sorted(alike.items()):
        before = torch.tensor([paths[number][prefix:level] for number in rows], dtype=torch.long)
        rest = _padded([paths[number][level:] for number in rows])
        parts.append(Part(before, rest, prefix))
        for place, number in enumerate(rows):
            first = begin + place * rest.shape[1] - level
            for token in range(known[number], len(paths[number])):
                scatter[paths[number][token]] = first + token
        begin += rest.numel()
    back = [scatter[place] for place in sorted(scatter)] + spare * [0]
    return Layout(
        prefix, _padded([path[prefix:] for path in paths]), tuple(parts), torch.tensor(back)
    )


def _padded(paths: list[list[int]]) -> torch.Tensor:
    """(rows, longest): each with its last position again, up to a round length."""
    longest = rounded(max(len(path) for path in paths))
    return torch.tensor([path + (longest - len(path)) * path[-1:] for path in paths])
