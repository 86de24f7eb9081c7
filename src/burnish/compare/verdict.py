"""Was fine-tuning worth it? One of three decisions, with the reason in plain words.

    ship                  better than every other route (p < alpha each), by at least `least_gain`
    dont_fine_tune        the gain over the best other route is surely less than `least_gain`
    not_enough_evidence   neither can be said with this many questions; about N more would do

"Better than every other route" is an intersection-union test (Berger 1982): since each single
comparison must succeed, the chance of shipping a fine-tune that is no better than its best rival
stays at alpha, however many rivals there are and although the best one is found by looking.
"Surely less" looks at the most favourable of several bounds, so each has its share of alpha
(Bonferroni). `docs/evidence.md` has the argument, `benchmarks/planted_null.py` the proof by trying.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from burnish.core.records import Scores
from burnish.core.sections import Compare
from burnish.core.stats import PairedTest, holm, paired_test, rows_needed, smallest_visible

Decision = Literal["ship", "dont_fine_tune", "not_enough_evidence"]

OURS, INCUMBENT = "fine_tuned", "base"
#: Differences smaller than this are not planned for, whatever `least_gain` says.
_FINEST = 0.005


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision, the route to take, why, and what would change it.

    `gain` is that of the fine-tune over its best rival, with an interval of level `confidence`;
    `p_value` the worst over all rivals, by which it ships; `visible` the smallest gain that this
    test size sees with the power asked for; `more_rows` the test rows that are missing.
    """

    decision: Decision
    winner: str
    headline: str
    reason: str
    rival: str
    gain: PairedTest | None
    confidence: float
    p_value: float | None
    visible: float
    more_rows: int


def judge(routes: Mapping[str, Scores], settings: Compare) -> Verdict:
    """The verdict over routes that were measured on the same questions."""
    rivals = {name: scores for name, scores in routes.items() if name != OURS}
    if OURS not in routes or not rivals:
        return _nothing_to_decide(routes)
    rival = max(rivals, key=lambda name: rivals[name].interval.value)
    share = settings.alpha / len(rivals)
    ours, theirs = routes[OURS].values, routes[rival].values
    gain = paired_test(ours, theirs, 1 - 2 * share)
    p_value = _worst_p_value(routes, settings)
    decision: Decision = "not_enough_evidence"
    if p_value < settings.alpha and gain.gain.value >= settings.least_gain:
        decision = "ship"
    elif gain.gain.high < settings.least_gain:
        decision = "dont_fine_tune"
    verdict = Verdict(
        decision=decision,
        winner=OURS if decision == "ship" else rival,
        headline="",
        reason="",
        rival=rival,
        gain=gain,
        confidence=1 - 2 * share,
        p_value=p_value,
        visible=min(smallest_visible(ours, theirs, settings.alpha, settings.power), 1.0),
        more_rows=_more_rows(routes, rival, share, settings)
        if decision == "not_enough_evidence"
        else 0,
    )
    headline, reason = _words(verdict, gain, routes, settings)
    return replace(verdict, headline=headline, reason=reason)


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


def _worst_p_value(routes: Mapping[str, Scores], settings: Compare) -> float:
    """The largest p-value of the fine-tune against each rival; against the plain prompt the one
    that the table of routes shows (Holm), so that page and verdict never disagree."""
    shown = against_incumbent(routes, settings, 0.95)
    return max(
        shown[OURS].p_value
        if name == INCUMBENT
        else paired_test(routes[OURS].values, scores.values).p_value
        for name, scores in routes.items()
        if name != OURS
    )


def _more_rows(routes: Mapping[str, Scores], rival: str, share: float, settings: Compare) -> int:
    """Test rows with which the open question would be decided with the power asked for.

    A gain that looks worth having must be told from none; a smaller one from a gain that is worth
    having, at the bound's share of alpha.
    """
    ours, theirs = routes[OURS].values, routes[rival].values
    gain = routes[OURS].interval.value - routes[rival].interval.value
    n, least = len(ours), settings.least_gain
    if gain >= least:
        needed = rows_needed(ours, theirs, max(gain, _FINEST), settings.alpha, settings.power)
    else:
        needed = rows_needed(ours, theirs, max(least, _FINEST), share, settings.power)
    if needed <= n:
        # The gain is real but close to the least one: what is open is on which side it lies.
        apart = max(abs(gain - least), least / 4, _FINEST)
        needed = rows_needed(ours, theirs, apart, share, settings.power)
    return _rounded(max(needed - n, n // 4, 1))


def _nothing_to_decide(routes: Mapping[str, Scores]) -> Verdict:
    best = max(routes, key=lambda name: routes[name].interval.value)
    return Verdict(
        decision="not_enough_evidence",
        winner=best,
        headline="There is nothing to decide.",
        reason="A verdict needs the fine-tuned route and at least one other; only "
        f"{', '.join(routes)} was measured.",
        rival=best,
        gain=None,
        confidence=0.0,
        p_value=None,
        visible=1.0,
        more_rows=0,
    )


_NAMES = {"base": "the plain prompt", "few_shot": "few-shot examples", "fine_tuned": "fine-tuning"}


def _words(
    verdict: Verdict, gain: PairedTest, routes: Mapping[str, Scores], settings: Compare
) -> tuple[str, str]:
    ours, theirs = routes[OURS].interval, routes[verdict.rival].interval
    metric = routes[OURS].metric.replace("_", " ")
    other = _NAMES[verdict.rival]
    least, visible = (f"{100 * size:.1f} points" for size in (settings.least_gain, verdict.visible))
    best = ", the best other route," if len(routes) > 2 else ""
    measured = (
        f"On the same {ours.n} questions fine-tuning reaches {ours.value:.1%} {metric} and "
        f"{other}{best} {theirs.value:.1%}: a gain of {_points(gain.gain.value)} "
        f"({verdict.confidence:.0%} interval {100 * gain.gain.low:+.1f} to "
        f"{100 * gain.gain.high:+.1f}); better on {gain.wins} questions, worse on {gain.losses}."
    )
    if verdict.decision == "ship":
        return "Ship the fine-tune.", (
            f"{measured} If it were no better than every other route, so clear a result would come "
            f"up {_chance(verdict.p_value or 0)}; a gain of {least} was asked for. What would "
            "change this: questions unlike those of the test split, or a stronger model to prompt."
        )
    if verdict.decision == "dont_fine_tune":
        size = "no gain at all" if gain.gain.high <= 0 else f"less than the {least} asked for"
        return "Don't fine-tune.", (
            f"{measured} The gain is surely {size}, too little to pay for training and keeping a "
            f"model of your own. Use {other}. What would change this: more or better training "
            "rows, or a larger base model."
        )
    is_real = verdict.p_value is not None and verdict.p_value < settings.alpha
    open_question = (
        f"That is more than luck, but may be less than the {least} asked for"
        if is_real
        else f"That is neither surely more than luck nor surely less than the {least} asked for"
    )
    return f"Not enough evidence: collect about {verdict.more_rows:,} more test rows.", (
        f"{measured} {open_question}: with this many questions a true gain is seen "
        f"{settings.power:.0%} of the time only from {visible} on. About {verdict.more_rows:,} "
        f"more test rows would decide it; until then use {other}."
    )


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
