"""The sampler: the order of the rows, and which of them make a step.

The order is a pure function of the rows, the seed and the epoch, so that a resumed run sees each
row in the same step as an undisturbed one.
"""

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Self, TypeVar

from burnish.core.prefix import common_prefix_length
from burnish.core.recipe.objectives import Grpo
from burnish.core.recipe.train import Train
from burnish.train.batching.examples import Example

RowT = TypeVar("RowT")

#: Indices of rows that belong in one step, unless its end separates them.
RowGroups = tuple[tuple[int, ...], ...]
#: The most tokens of an empty reasoning block.
_EMPTY_REASONING = 24


def count_steps(rows: int, settings: Train) -> int:
    """Return the optimizer steps of a whole run."""
    steps = math.ceil(rows * settings.epochs / settings.batch_size) * count_updates(settings)
    return min(steps, settings.max_steps) if settings.max_steps else steps


def count_updates(settings: Train) -> int:
    """Return the optimizer steps on the same rows, one after another."""
    return settings.objective.num_iterations if isinstance(settings.objective, Grpo) else 1


def rows_of_step(
    rows: Sequence[RowT], step: int, settings: Train, row_groups: RowGroups = ()
) -> list[RowT]:
    """Return the rows of step `step` (from 0): the next `batch_size` of an endless shuffled stream,
    or those of the step before where several steps learn from the same answers."""
    begin = step // count_updates(settings) * settings.batch_size
    end = min(begin + settings.batch_size, math.ceil(len(rows) * settings.epochs))
    epochs = range(begin // len(rows), -(-end // len(rows)))
    order = {epoch: _order(len(rows), settings.seed, epoch, row_groups) for epoch in epochs}
    positions = (divmod(position, len(rows)) for position in range(begin, end))
    return [rows[order[epoch][index]] for epoch, index in positions]


@lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int, row_groups: RowGroups) -> list[int]:
    """Return the shuffled indices; a group stands where its first row was shuffled to."""
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    group_of = {index: group for group in row_groups for index in group}
    return list(
        dict.fromkeys(member for index in order for member in group_of.get(index, (index,)))
    )


def group_rows(rows: Sequence[Example], settings: Train) -> RowGroups:
    """Return groups of at most `batch_size` rows that stay together.

    Those are rows of which one continues the conversation of another, so that their history is
    computed once; with `group_by_prefix` also rows that share at least half of their prompt,
    beyond the prefix that all rows share.
    """
    prompts = [_PromptTokens.of(index, row) for index, row in enumerate(rows)]
    prompts.sort(key=lambda row: (row.ids[: row.answer_start], row.ids))
    # The first and the last of all have no more in common than any two.
    shared = common_prefix_length(prompts[0].ids, prompts[-1].ids) if prompts else 0
    groups: list[list[_PromptTokens]] = []
    for row in prompts:
        last = groups[-1][-1] if groups else row
        same = shared + common_prefix_length(last.ids[shared:], row.ids[shared:])
        is_alike = settings.group_by_prefix and 2 * (same - shared) >= row.answer_start - shared
        joins = same > shared and (is_alike or _continues(last, row, same))
        if groups and joins and len(groups[-1]) < settings.batch_size:
            groups[-1].append(row)
        else:
            groups.append([row])
    return tuple(tuple(row.row_number for row in group) for group in groups if len(group) > 1)


class _PromptTokens(NamedTuple):
    """A row's tokens, the position of its first target, and the row's index."""

    ids: tuple[int, ...]
    answer_start: int
    row_number: int

    @classmethod
    def of(cls, index: int, row: Example) -> Self:
        answer = row.answers[0]
        targets = (position for position, weight in enumerate(answer.weights) if weight)
        return cls(answer.ids, next(targets, len(answer.ids)), index)


def _continues(one: _PromptTokens, other: _PromptTokens, same: int) -> bool:
    """Return True if one row is a prefix of the other, or its prompt and answer are a prefix of the
    other's prompt, which may leave out the reasoning (even an empty one) before the answer. `same`
    tokens are shared."""
    if one.answer_start == other.answer_start:
        shorter, longer = sorted(len(row.ids) for row in (one, other))
        return same == shorter < longer
    before, after = sorted((one, other), key=lambda row: row.answer_start)
    same = min(same, before.answer_start)
    if before.answer_start - same > _EMPTY_REASONING:
        return False
    answer, following = before.ids[before.answer_start :], after.ids[same : after.answer_start]
    endings = (answer[start:] for start in range(len(answer) - 1))
    return any(following[: len(ending)] == ending for ending in endings)
