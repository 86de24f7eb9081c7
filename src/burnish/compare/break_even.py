"""What the training costs, and from how many requests on it has paid for itself.

A fine-tune answers a short prompt; examples and passages have to be read with every request. Where
that makes a request dearer, the difference pays for the training after so many requests.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

#: The routes whose prompts grow in place of a training.
LONGER_PROMPTS = ("few_shot", "retrieval")


@dataclass(frozen=True, slots=True)
class TrainingCosts:
    """The training of `judged`, and the requests that pay for it.

    `training` is money; `saved_per_1000` what the fine-tune saves beside `rival`, the cheapest
    route with a longer prompt (or the plain prompt, if none was measured); negative if it is the
    dearer one. `break_even` is none if no number of requests pays for the training.
    """

    judged: str
    training_seconds: float
    training: float
    rival: str
    saved_per_1000: float
    break_even: int | None


def training_costs(
    per_1000: Mapping[str, float], judged: str, training_seconds: float, price_per_hour: float
) -> TrainingCosts | None:
    """The costs of a trained route; `per_1000` is the price of 1,000 requests of every route.

    None if there is no prompt to compare it with.
    """
    rivals = [name for name in LONGER_PROMPTS if name in per_1000] or ["base"]
    if rivals[0] not in per_1000:
        return None
    rival = min(rivals, key=lambda name: per_1000[name])
    saved = per_1000[rival] - per_1000[judged]
    training = training_seconds / 3600 * price_per_hour
    break_even = math.ceil(1000 * training / saved) if saved > 0 else None
    return TrainingCosts(judged, training_seconds, training, rival, saved, break_even)


def costs_in_words(costs: TrainingCosts) -> str:
    """The one thing to know of it, as a sentence."""
    names = {"few_shot": "a few-shot prompt", "retrieval": "retrieval", "base": "the plain prompt"}
    if costs.break_even is None:
        return (
            f"The training never pays for itself by cheaper requests: {names[costs.rival]} "
            "costs no more for each."
        )
    return (
        f"Beside {names[costs.rival]}, the training has paid for itself after about "
        f"{_round_up(costs.break_even):,} requests."
    )


def _round_up(count: int) -> int:
    """Two digits, rounded up: the prices behind it are no more exact."""
    size = int(10 ** max(len(str(count)) - 2, 0))
    return -(-count // size) * size
