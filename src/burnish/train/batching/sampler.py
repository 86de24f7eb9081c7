"""In which order rows are learnt, and which of them make a step.

The order is a pure function of the rows, the seed and the epoch, so that a resumed run sees each
row where the undisturbed one would have.
"""

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Self

from burnish.core.prefix import common_prefix_length
from burnish.core.recipe.objectives import Grpo
from burnish.core.recipe.train import Train
from burnish.train.batching.examples import Example

#: Places of rows that are learnt in one step, where its end doesn't part them.
RowGroups = tuple[tuple[int, ...], ...]
#: Tokens of a thought without words, at the most.
_EMPTY_THOUGHT = 24


def count_steps(rows: int, settings: Train) -> int:
    """Optimizer steps of a whole run."""
    steps = math.ceil(rows * settings.epochs / settings.batch_size) * count_updates(settings)
    return min(steps, settings.max_steps) if settings.max_steps else steps


def count_updates(settings: Train) -> int:
    """Optimizer steps on the same rows, one after another."""
    return settings.objective.num_iterations if isinstance(settings.objective, Grpo) else 1


def rows_of_step(
    rows: Sequence[Any], number: int, settings: Train, units: RowGroups = ()
) -> list[Any]:
    """The rows of step `number` (from 0): the next `batch_size` of an endless shuffled stream,
    or those of the step before where several steps learn from the same answers."""
    begin = number // count_updates(settings) * settings.batch_size
    end = min(begin + settings.batch_size, math.ceil(len(rows) * settings.epochs))
    epochs = range(begin // len(rows), -(-end // len(rows)))
    order = {epoch: _order(len(rows), settings.seed, epoch, units) for epoch in epochs}
    places = (divmod(place, len(rows)) for place in range(begin, end))
    return [rows[order[epoch][index]] for epoch, index in places]


@lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int, units: RowGroups) -> list[int]:
    """Places, shuffled; those of a unit stand where its first one came to lie."""
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    unit_of = {place: unit for unit in units for place in unit}
    return list(dict.fromkeys(own for place in order for own in unit_of.get(place, (place,))))


def group_rows(rows: Sequence[Example], settings: Train) -> RowGroups:
    """Rows that stay together, at most `batch_size` of them: those whose conversation goes on from
    one to the next, so that their history is computed once; with `group_by_prefix` also those that
    share half of their question and more, beyond what all rows share."""
    asked = [_PromptTokens.of(place, row) for place, row in enumerate(rows)]
    asked.sort(key=lambda row: (row.ids[: row.answer_start], row.ids))
    # The first and the last of all have no more in common than any two.
    of_all = common_prefix_length(asked[0].ids, asked[-1].ids) if asked else 0
    units: list[list[_PromptTokens]] = []
    for row in asked:
        last = units[-1][-1] if units else row
        same = of_all + common_prefix_length(last.ids[of_all:], row.ids[of_all:])
        is_alike = settings.group_by_prefix and 2 * (same - of_all) >= row.answer_start - of_all
        joins = same > of_all and (is_alike or _continues(last, row, same))
        if units and joins and len(units[-1]) < settings.batch_size:
            units[-1].append(row)
        else:
            units.append([row])
    return tuple(tuple(row.row_number for row in unit) for unit in units if len(unit) > 1)


class _PromptTokens(NamedTuple):
    """A row's tokens, where the first one stands that is learnt, and the row's place."""

    ids: tuple[int, ...]
    answer_start: int
    row_number: int

    @classmethod
    def of(cls, place: int, row: Example) -> Self:
        first = row.answers[0]
        begin = next((at for at, weight in enumerate(first.weights) if weight), len(first.ids))
        return cls(first.ids, begin, place)


def _continues(one: _PromptTokens, other: _PromptTokens, same: int) -> bool:
    """Whether one row stands at the beginning of the other, or its question and answer at that of
    the other's question, where a thought before the answer, be it an empty one, may be left out.
    `same` tokens are shared."""
    if one.answer_start == other.answer_start:
        shorter, longer = sorted(len(row.ids) for row in (one, other))
        return same == shorter < longer
    before, after = sorted((one, other), key=lambda row: row.answer_start)
    same = min(same, before.answer_start)
    if before.answer_start - same > _EMPTY_THOUGHT:
        return False
    answer, behind = before.ids[before.answer_start :], after.ids[same : after.answer_start]
    spoken = (answer[place:] for place in range(len(answer) - 1))
    return any(behind[: len(some)] == some for some in spoken)
