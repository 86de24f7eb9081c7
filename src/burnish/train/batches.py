"""In which order rows are learnt, and how they are cut into steps and micro-batches.

The order is a pure function of seed and epoch, so that a resumed run sees each row where the
undisturbed one would have.
"""

import math
import random
from collections.abc import Sequence

from burnish.core.reinforcement import Grpo
from burnish.core.training import Train
from burnish.models.chat import Encoded
from burnish.train.examples import Example
from burnish.train.flat import shared_lengths, shared_prefix


def trimmed(row: Encoded) -> Encoded:
    """The row up to its last learnt token: what comes behind it teaches nothing."""
    last = max((place for place, weight in enumerate(row.weights) if weight > 0), default=-1)
    return Encoded(row.ids[: last + 1], row.weights[: last + 1])


def count_steps(rows: int, settings: Train) -> int:
    """Optimizer steps of a whole run."""
    steps = math.ceil(rows * settings.epochs / settings.batch_size) * updates_of(settings)
    return min(steps, settings.max_steps) if settings.max_steps else steps


def updates_of(settings: Train) -> int:
    """Optimizer steps on the same rows, one after another."""
    return settings.objective.updates if isinstance(settings.objective, Grpo) else 1


def rows_of_step(rows: Sequence[Example], number: int, settings: Train) -> list[Example]:
    """The rows of step `number` (from 0): the next `batch_size` of an endless shuffled stream,
    or those of the step before where several steps learn from the same answers."""
    begin = number // updates_of(settings) * settings.batch_size
    chosen = []
    for place in range(begin, begin + settings.batch_size):
        epoch, index = divmod(place, len(rows))
        if place >= math.ceil(len(rows) * settings.epochs):
            break
        chosen.append(rows[_order(len(rows), settings.seed, epoch)[index]])
    return chosen


_orders: dict[tuple[int, int, int], list[int]] = {}


def _order(count: int, seed: int, epoch: int) -> list[int]:
    key = (count, seed, epoch)
    if key not in _orders:
        _orders.clear()
        order = list(range(count))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        _orders[key] = order
    return _orders[key]


def micro_batches(rows: Sequence[Example], most_tokens: int) -> list[list[Example]]:
    """Rows of like length together, at most `most_tokens` computed tokens each; no row is cut."""
    batches: list[list[Example]] = []
    prefix, used = _shared(rows), 0
    for row in sorted(rows, key=lambda row: (_own_tokens(row, prefix), row.answers[0].ids)):
        own = _own_tokens(row, prefix)
        if batches and used + own <= most_tokens:
            batches[-1].append(row)
            used += own
        else:
            batches.append([row])
            used = prefix + own
    return batches


def computed_tokens(rows: Sequence[Example]) -> int:
    """Tokens that the layers see when these rows are one micro-batch: what is shared, once."""
    prefix = _shared(rows)
    return prefix + sum(_own_tokens(row, prefix) for row in rows)


def all_tokens(rows: Sequence[Example]) -> int:
    """Tokens of all answers with their questions, whatever of it is shared."""
    return sum(len(answer.ids) for row in rows for answer in row.answers)


def _shared(rows: Sequence[Example]) -> int:
    return shared_prefix([answer for row in rows for answer in row.answers])


def _own_tokens(row: Example, prefix: int) -> int:
    shared = shared_lengths(row, prefix)
    return sum(len(answer.ids) - known for answer, known in zip(row.answers, shared, strict=True))
