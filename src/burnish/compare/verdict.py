"""Was fine-tuning worth it? One of three decisions, with the reason in plain words.

    ship                  better than every other route (p < alpha each), by at least `least_gain`
    dont_fine_tune        the gain over the best other route is surely less than `least_gain`
    not_enough_evidence   neither can be said with this many questions; about N more would do

"Better than every other route" is an intersection-union test (Berger 1982): since each single
comparison must succeed, the chance of shipping a fine-tune that is no better than its best rival
stays at alpha, however many rivals there are and although the best one is found by looking.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from burnish.core.records import Scores
from burnish.core.sections import Compare
from burnish.core.stats import PairedTest, holm, paired_test, rows_needed, smallest_visible

Decision = Literal["ship", "dont_fine_tune", "not_enough_evidence"]

OURS, INCUMBENT = "fine_tuned", "base"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision, the route to take, why, and what would change it.

    `gain` is that of the fine-tune over its best rival; `visible` the smallest gain that this test
    size can see; `more_rows` the test rows that are missing for an answer.
    """

    decision: Decision
    winner: str
    headline: str
    reason: str
    rival: str
    gain: PairedTest | None
    visible: float
    more_rows: int


def judge(routes: Mapping[str, Scores], settings: Compare) -> Verdict:
    """The verdict over routes that were measured on the same questions."""
    rivals = {name: scores for name, scores in routes.items() if name != OURS}
    if OURS not in routes or not rivals:
        return _nothing_to_decide(routes)
    rival = max(rivals, key=lambda name: rivals[name].interval.value)
    tests = {name: _test(routes[OURS], scores, settings) for name, scores in rivals.items()}
    gain = tests[rival]
    worst_p = max(test.p_value for test in tests.values())
    ours, theirs = routes[OURS].values, routes[rival].values
    visible = smallest_visible(ours, theirs, settings.alpha, settings.power)
    decision: Decision = "not_enough_evidence"
    if worst_p < settings.alpha and gain.gain.value >= settings.least_gain:
        decision = "ship"
    elif gain.gain.high < settings.least_gain:
        decision = "dont_fine_tune"
    more = 0
    if decision == "not_enough_evidence":
        worth = max(gain.gain.value, settings.least_gain, 1e-3)
        needed = rows_needed(ours, theirs, worth, settings.alpha, settings.power)
        more = _rounded(max(needed - len(ours), len(ours) // 4, 1))
    headline, reason = _words(decision, routes, rival, gain, more)
    winner = OURS if decision == "ship" else rival
    return Verdict(decision, winner, headline, reason, rival, gain, visible, more)


def against_incumbent(
    routes: Mapping[str, Scores], settings: Compare, confidence: float
) -> dict[str, PairedTest]:
    """Each route against the plain prompt, p-values Holm-adjusted for the number of routes."""
    if INCUMBENT not in routes:
        return {}
    base = routes[INCUMBENT].values
    tests = {
        name: paired_test(scores.values, base, confidence)
        for name, scores in routes.items()
        if name != INCUMBENT
    }
    adjusted = holm({name: test.p_value for name, test in tests.items()})
    return {name: replace(test, p_value=adjusted[name]) for name, test in tests.items()}


def _test(ours: Scores, theirs: Scores, settings: Compare) -> PairedTest:
    return paired_test(ours.values, theirs.values, 1 - 2 * settings.alpha)


def _nothing_to_decide(routes: Mapping[str, Scores]) -> Verdict:
    best = max(routes, key=lambda name: routes[name].interval.value)
    return Verdict(
        "not_enough_evidence",
        best,
        "There is nothing to decide.",
        "A verdict needs the fine-tuned route and at least one other; only "
        f"{', '.join(routes)} was measured.",
        best,
        None,
        0.0,
        0,
    )


_NAMES = {"base": "the plain prompt", "few_shot": "few-shot examples", "fine_tuned": "fine-tuning"}


def _words(
    decision: Decision, routes: Mapping[str, Scores], rival: str, gain: PairedTest, more: int
) -> tuple[str, str]:
    ours, theirs = routes[OURS].interval, routes[rival].interval
    metric = routes[OURS].metric.replace("_", " ")
    other = _NAMES.get(rival, rival)
    measured = (
        f"On the same {ours.n} questions fine-tuning reaches {ours.value:.1%} {metric} and "
        f"{other}, the best other route, {theirs.value:.1%}: a gain of {_points(gain.gain.value)} "
        f"(between {_points(gain.gain.low)} and {_points(gain.gain.high)})."
    )
    heads = {
        "ship": "Ship the fine-tune.",
        "dont_fine_tune": "Don't fine-tune.",
        "not_enough_evidence": f"Not enough evidence: collect about {more} more test rows.",
    }
    tails = {
        "ship": f"It is better on {gain.wins} questions and worse on {gain.losses}; if it were no "
        f"better, so clear a result would come up {_chance(gain.p_value)}. What would "
        "change this: questions unlike those of the test split, or a stronger model to prompt.",
        "dont_fine_tune": f"Whatever gain there is, it is too small to pay for training and "
        f"keeping a model of your own. Use {other}. What would change this: more or better "
        "training rows, or a larger base model.",
        "not_enough_evidence": "With this many questions, luck can't be told from a gain worth "
        f"having. About {more} more test rows would decide it; until then use {other}.",
    }
    return heads[decision], f"{measured} {tails[decision]}"


def _points(share: float) -> str:
    return f"{100 * share:+.1f} points"


def _chance(p_value: float) -> str:
    return (
        "less than once in 10,000 tries"
        if p_value < 1e-4
        else f"about once in {1 / p_value:,.0f} tries"
    )


def _rounded(count: int) -> int:
    """A number of rows as one would say it: two digits, rounded up."""
    size = int(10 ** max(len(str(count)) - 2, 0))
    return -(-count // size) * size
