"""What the training costs, and from how many requests on it has paid for itself.

A fine-tune answers a short prompt; examples and passages have to be read with every request. Which
one costs more is counted, in tokens, and not timed: a busy machine can make the longer prompt look
quicker. By how much is timed, on the same questions, and has an interval.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from burnish.core.records import Interval
from burnish.core.stats import ratio_of_means
from burnish.evaluate.latency import BUSY

#: The routes whose prompts grow in place of a training.
LONGER_PROMPTS = ("few_shot", "retrieval")
#: Fewer pairs of times than this can't show which is longer (0.5**6 is 0.016).
_LEAST_TIMED = 6


@dataclass(frozen=True, slots=True)
class Work:
    """What one request of a route takes: tokens read and written, seconds of single requests on
    the same questions as any other route's, the price of 1,000, and how busy the machine was."""

    tokens: float
    seconds: Sequence[float]
    per_1000: float
    busy: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainingCosts:
    """The training of `judged`, and the requests that pay for it.

    `training` is money; `rival` the route with a longer prompt that reads least (or the plain
    prompt, if none was measured), which reads and writes `tokens_of_rival` a request. `saved` is
    the share of its time that the fine-tune saves, `saved_per_1000` that of its price.
    `break_even` is none where nothing is saved, or where the times can't tell that it is; with
    the least that may be saved, `break_even_at_most` requests pay.
    """

    judged: str
    training_seconds: float
    training: float
    rival: str
    tokens: float
    tokens_of_rival: float
    saved: Interval
    saved_per_1000: float
    break_even: int | None
    break_even_at_most: int | None
    busy: float

    @property
    def is_dearer(self) -> bool:
        """Whether the rival's requests take more work, as counted."""
        return self.tokens_of_rival > self.tokens


def training_costs(
    work: Mapping[str, Work],
    judged: str,
    training_seconds: float,
    price_per_hour: float,
    confidence: float = 0.95,
) -> TrainingCosts | None:
    """The costs of a trained route. None if there is no prompt to compare it with."""
    rivals = [name for name in LONGER_PROMPTS if name in work] or ["base"]
    if rivals[0] not in work:
        return None
    rival = min(rivals, key=lambda name: work[name].tokens)
    own, other = work[judged], work[rival]
    both = min(len(own.seconds), len(other.seconds))
    share = ratio_of_means(own.seconds[:both], other.seconds[:both], confidence=confidence)
    saved = Interval(1 - share.value, 1 - share.high, 1 - share.low, share.n)
    training = training_seconds / 3600 * price_per_hour
    is_sure = other.tokens > own.tokens and saved.low > 0 and both >= _LEAST_TIMED
    pays = [
        math.ceil(1000 * training / (other.per_1000 * part)) if other.per_1000 else 0
        for part in ((saved.value, saved.low) if is_sure else ())
    ]
    return TrainingCosts(
        judged=judged,
        training_seconds=training_seconds,
        training=training,
        rival=rival,
        tokens=own.tokens,
        tokens_of_rival=other.tokens,
        saved=saved,
        saved_per_1000=other.per_1000 * saved.value,
        break_even=pays[0] if pays else None,
        break_even_at_most=pays[1] if pays else None,
        busy=max(own.busy, other.busy),
    )


def costs_in_words(costs: TrainingCosts) -> str:
    """The one thing to know of it, as a sentence or two."""
    names = {"few_shot": "a few-shot prompt", "retrieval": "retrieval", "base": "the plain prompt"}
    rival = names[costs.rival]
    if not costs.is_dearer:
        return (
            f"The training never pays for itself by cheaper requests: {rival} takes no more work "
            f"for each ({costs.tokens_of_rival:,.0f} tokens, {costs.tokens:,.0f} after training)."
        )
    times = costs.tokens_of_rival / max(costs.tokens, 1e-9)
    beside = f"Beside {rival}, which takes {times:.1f} times the tokens"
    if costs.break_even is None or costs.break_even_at_most is None:
        found = costs.saved
        told = (
            "the training saves work with each request, but the times measured here don't tell how "
            f"much ({found.value:.0%} of the time, {found.low:.0%} to {found.high:.0%})"
        )
        return f"{beside}, {told}.{_busy(costs)}"
    most = _round_up(costs.break_even_at_most)
    least = _round_up(costs.break_even)
    upto = f" (at most {most:,})" if most > least else ""
    return (
        f"{beside}, the training has paid for itself after about {least:,} requests{upto}."
        f"{_busy(costs)}"
    )


def _busy(costs: TrainingCosts) -> str:
    if costs.busy <= BUSY:
        return ""
    return (
        f" Other programs used {costs.busy:.0%} of the processors meanwhile: measure again on an "
        "idle machine."
    )


def _round_up(count: int) -> int:
    """Two digits, rounded up: the prices behind it are no more exact."""
    size = int(10 ** max(len(str(count)) - 2, 0))
    return -(-count // size) * size
