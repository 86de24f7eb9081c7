"""Training costs, and the number of requests after which they have paid off.

A fine-tuned model answers a short prompt; examples and passages must be read with every request.
Which one costs more is decided by token counts, not by timing: a busy machine can make the longer
prompt look faster. By how much is timed, on the same questions, with an interval.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from burnish.core.records import Interval
from burnish.core.stats import ratio_of_means
from burnish.evaluate.latency import BUSY

#: The routes with longer prompts in place of training.
LONGER_PROMPTS = ("few_shot", "retrieval")
#: With fewer pairs of times than this, no order is significant (0.5**6 is 0.016).
_LEAST_TIMED = 6


@dataclass(frozen=True, slots=True)
class Work:
    """The work of one request of a route: tokens read and written, seconds of single requests on
    the same questions as other routes', price per 1,000, and the machine's load by other
    programs."""

    tokens: float
    seconds: Sequence[float]
    per_1000: float
    busy: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainingCosts:
    """The training costs of `judged`, and the requests that pay for them.

    `training` is money; `rival` the route with a longer prompt that reads least (or the plain
    prompt, if none was measured), with `tokens_of_rival` per request. `saved` is the share of its
    time that the fine-tune saves, `saved_per_1000` that of its price. `break_even` is None if
    nothing is saved, or the times can't tell; `break_even_at_most` uses the lower end of the
    interval of `saved`.
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
        """Whether the rival's requests take more tokens."""
        return self.tokens_of_rival > self.tokens


def training_costs(
    work: Mapping[str, Work],
    judged: str,
    training_seconds: float,
    price_per_hour: float,
    confidence: float = 0.95,
) -> TrainingCosts | None:
    """Return the costs of a trained route; None if there is no prompt to compare it with."""
    rivals = [name for name in LONGER_PROMPTS if name in work] or ["base"]
    if rivals[0] not in work:
        return None
    rival = min(rivals, key=lambda name: work[name].tokens)
    judged_work, rival_work = work[judged], work[rival]
    timed = min(len(judged_work.seconds), len(rival_work.seconds))
    ratio = ratio_of_means(
        judged_work.seconds[:timed], rival_work.seconds[:timed], confidence=confidence
    )
    saved = Interval(1 - ratio.value, 1 - ratio.high, 1 - ratio.low, ratio.n)
    training = training_seconds / 3600 * price_per_hour
    is_sure = rival_work.tokens > judged_work.tokens and saved.low > 0 and timed >= _LEAST_TIMED
    break_evens = [
        math.ceil(1000 * training / (rival_work.per_1000 * saving)) if rival_work.per_1000 else 0
        for saving in ((saved.value, saved.low) if is_sure else ())
    ]
    return TrainingCosts(
        judged=judged,
        training_seconds=training_seconds,
        training=training,
        rival=rival,
        tokens=judged_work.tokens,
        tokens_of_rival=rival_work.tokens,
        saved=saved,
        saved_per_1000=rival_work.per_1000 * saved.value,
        break_even=break_evens[0] if break_evens else None,
        break_even_at_most=break_evens[1] if break_evens else None,
        busy=max(judged_work.busy, rival_work.busy),
    )


def costs_in_words(costs: TrainingCosts) -> str:
    """Return the key figure as a sentence or two."""
    names = {"few_shot": "a few-shot prompt", "retrieval": "retrieval", "base": "the plain prompt"}
    rival = names[costs.rival]
    if not costs.is_dearer:
        return (
            f"The training never pays off through cheaper requests: {rival} takes no more tokens "
            f"per request ({costs.tokens_of_rival:,.0f}; {costs.tokens:,.0f} after training)."
        )
    times = costs.tokens_of_rival / max(costs.tokens, 1e-9)
    comparison = f"Beside {rival}, which takes {times:.1f} times the tokens"
    if costs.break_even is None or costs.break_even_at_most is None:
        saved = costs.saved
        saving = (
            "the training saves work with each request, but the times measured here don't show how "
            f"much ({saved.value:.0%} of the time, {saved.low:.0%} to {saved.high:.0%})"
        )
        return f"{comparison}, {saving}.{_busy(costs)}"
    upper = _round_up(costs.break_even_at_most)
    estimate = _round_up(costs.break_even)
    limit = f" (at most {upper:,})" if upper > estimate else ""
    return (
        f"{comparison}, the training has paid for itself after about {estimate:,} requests{limit}."
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
    """Round up to two digits: the underlying prices are no more exact."""
    unit = int(10 ** max(len(str(count)) - 2, 0))
    return -(-count // unit) * unit
