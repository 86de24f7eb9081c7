"""In which order rows are learnt, and which of them make a step.

The order is a pure function of the rows, the seed and the epoch, so that a resumed run sees each
row where the undisturbed one would have.
"""

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any

from burnish.core.reinforcement import Grpo
from burnish.core.training import Train
from burnish.models.chat import Encoded
from burnish.train.examples import Example

#: Places of rows that are learnt in one step, where its end doesn't part them.
Units = tuple[tuple[int, ...], ...]
#: Tokens of a thought without words, at the most, and those of an answer's end that tell it.
_EMPTY_THOUGHT, _ENDING = 8, 4


def count_steps(rows: int, settings: Train) -> int:
    """Optimizer steps of a whole run."""
    steps = math.ceil(rows * settings.epochs / settings.batch_size) * updates_of(settings)
    return min(steps, settings.max_steps) if settings.max_steps else steps


def updates_of(settings: Train) -> int:
    """Optimizer steps on the same rows, one after another."""
    return settings.objective.updates if isinstance(settings.objective, Grpo) else 1


def rows_of_step(rows: Sequence[Any], number: int, settings: Train, units: Units = ()) -> list[Any]:
    """The rows of step `number` (from 0): the next `batch_size` of an endless shuffled stream,
    or those of the step before where several steps learn from the same answers."""
    begin = number // updates_of(settings) * settings.batch_size
    chosen = []
    for place in range(begin, begin + settings.batch_size):
        epoch, index = divmod(place, len(rows))
        if place >= math.ceil(len(rows) * settings.epochs):
            break
        chosen.append(rows[_order(len(rows), settings.seed, epoch, units)[index]])
    return chosen


@lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int, units: Units) -> list[int]:
    """Places, shuffled; those of a unit stand where its first one came to lie."""
    order = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    unit_of = {place: unit for unit in units for place in unit}
    return list(dict.fromkeys(own for place in order for own in unit_of.get(place, (place,))))


def units_of(rows: Sequence[Example], settings: Train) -> Units:
    """Rows that stay together, at most `batch_size` of them: those whose conversation goes on from
    one to the next, so that their history is computed once; with `group_by_prefix` also those that
    share half of their question and more, beyond what all rows share."""
    asked = [row.answers[0] for row in rows]
    questions = [row.ids[: _learnt_from(row)] for row in asked]
    if not questions:
        return ()
    # The first and the last of all have no more in common than any two.
    of_all = _same(min(questions), max(questions))
    own = [question[of_all:] for question in questions]
    units: list[list[int]] = []
    for place in sorted(range(len(rows)), key=lambda place: own[place]):
        last = units[-1][-1] if units else place
        same = _same(own[last], own[place])
        is_alike = settings.group_by_prefix and 2 * same >= len(own[place]) > 0
        joins = is_alike or (same > 0 and _goes_on(asked[last], asked[place], of_all + same))
        if units and joins and len(units[-1]) < settings.batch_size:
            units[-1].append(place)
        else:
            units.append([place])
    return tuple(tuple(unit) for unit in units if len(unit) > 1)


def _goes_on(one: Encoded, other: Encoded, same: int) -> bool:
    """Whether one row's question and answer stand at the beginning of the other's question, by
    their first `same` tokens and the last ones of the answer: a thought isn't shown again."""
    before, after = sorted((one, other), key=_learnt_from)
    begin, end = _learnt_from(before), _learnt_from(after)
    said = before.ids[begin:][-_ENDING:]
    behind = after.ids[same : min(end, same + len(before.ids) - begin + _EMPTY_THOUGHT)]
    places = range(len(behind) - len(said) + 1)
    return begin - same <= _EMPTY_THOUGHT and any(
        behind[place : place + len(said)] == said for place in places
    )


def _learnt_from(row: Encoded) -> int:
    """The place of the first token that is learnt."""
    return sum(1 for _ in takewhile(lambda weight: weight == 0, row.weights))


def _same(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the beginning that two rows share."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
