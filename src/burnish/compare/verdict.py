"""Was fine-tuning worth it? One of three decisions, with the reason in plain words.

    ship                  better than every other route (p < alpha / 2 each at a first look), by at
                          least `least_gain`, and the whole interval of the gain lies above 0
    dont_fine_tune        the whole interval lies below `least_gain`
    not_enough_evidence   neither can be said with this many questions; about N more would do

"Better than every other route" is an intersection-union test (Berger 1982): since each single
comparison must succeed, the chance of shipping a fine-tune that is no better than its best rival
stays at alpha, however many rivals there are and although the best one is found by looking.
Each end of the interval has a share of alpha (Bonferroni): of the routes that the best rival, or
the best trained route, was chosen from by looking, and never more than half, so that the interval
is one of 95 % or more and the decision can be read off it. Who looks again, at more rows or with
another fine-tune, has a smaller share each time (`compare.looks`). The argument is in
`docs/reference/statistics.md`, the proof by trying in `benchmarks/planted_null.py`.

Where the judged route was trained with several seeds, the one that would ship is the first; the
interval is made wide enough for the gain that such a training gives (`core.stats.repeated_gain`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Literal

from burnish.compare.looks import alpha_of
from burnish.compare.teacher_ceiling import CEILING
from burnish.core.clusters import FEW, effective_number, is_clustered
from burnish.core.recipe.compare import Compare
from burnish.core.records import Interval, Scores
from burnish.core.stats import (
    PairedTest,
    holm_adjust,
    minimum_detectable_gain,
    paired_test,
    repeated_gain,
    rows_needed,
)

Decision = Literal["ship", "dont_fine_tune", "not_enough_evidence"]

INCUMBENT = "base"
#: The routes that fine-tune; `judge` asks whether the best of them is worth it.
TRAINED_ROUTES = ("fine_tuned", "retrieval_fine_tuned")
#: Differences smaller than this are not planned for, whatever `least_gain` says.
_FINEST = 0.005
#: The chance of giving up a route that is no worse than the best one. It adds to alpha.
_HOPELESS = 0.005


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision, the route to take, why, and what would change it.

    `judged` is the trained route that it is about, empty if there is none; `gain` is its gain over
    the best rival, with an interval of level `confidence`; `p_value` the worst over all rivals, by
    which it ships; `visible` the smallest gain that this test size sees with the power asked for;
    `more_rows` the test rows that are missing; `look` the number of this look at the questions.
    """

    decision: Decision
    winner: str
    headline: str
    reason: str
    judged: str
    rival: str
    gain: PairedTest | None
    confidence: float
    p_value: float | None
    visible: float
    more_rows: int
    look: int = 1


def best_trained(routes: Mapping[str, Scores]) -> str | None:
    """The trained route with the highest score; none if no route is trained."""
    trained = [name for name in routes if name in TRAINED_ROUTES]
    return max(trained, key=lambda name: routes[name].interval.value) if trained else None


def decide(
    routes: Mapping[str, Scores], settings: Compare, reseeded: Sequence[Scores] = (), look: int = 1
) -> Verdict:
    """The verdict over routes that were measured on the same questions; a ceiling has no say.

    `again` are the scores of the judged route, trained with other seeds; `look` is the number of
    this look at the questions, which decides what it may spend of alpha.
    """
    routes = _contenders(routes)
    rivals = {name: scores for name, scores in routes.items() if name not in TRAINED_ROUTES}
    judged = best_trained(routes)
    if judged is None or not rivals:
        return _nothing_to_decide(routes)
    rival = max(rivals, key=lambda name: rivals[name].interval.value)
    share, next_share = (_share(routes, alpha_of(settings.alpha, one)) for one in (look, look + 1))
    ours, theirs, clusters = routes[judged].paired_with(routes[rival])
    gain = paired_test(ours, theirs, clusters, 1 - 2 * share)
    if reseeded:
        every = [ours, *(scores.paired_with(routes[rival])[0] for scores in reseeded)]
        spread = repeated_gain(every, theirs, clusters, 1 - 2 * share)
        gain = replace(gain, gain=_widen(gain.gain, spread))
    p_value = _worst_p_value(routes, judged, settings)
    decision: Decision = "not_enough_evidence"
    alpha = alpha_of(settings.alpha, look)
    if _is_real(gain, p_value, alpha) and gain.gain.value >= settings.least_gain:
        decision = "ship"
    elif max(_most_favourable(routes, rival, share), gain.gain.high) < settings.least_gain:
        decision = "dont_fine_tune"
    verdict = Verdict(
        decision=decision,
        winner=judged if decision == "ship" else rival,
        headline="",
        reason="",
        judged=judged,
        rival=rival,
        gain=gain,
        confidence=1 - 2 * share,
        p_value=p_value,
        visible=min(minimum_detectable_gain(ours, theirs, share, settings.power, clusters), 1.0),
        more_rows=_rows_to_decide(routes, (judged, rival), next_share, settings)
        if decision == "not_enough_evidence"
        else 0,
        look=look,
    )
    headline, reason = _explain(verdict, gain, routes, settings)
    return replace(verdict, headline=headline, reason=reason + _looked(verdict, settings))


def compare_with_incumbent(
    routes: Mapping[str, Scores], settings: Compare, confidence: float
) -> dict[str, PairedTest]:
    """Each route against the plain prompt, p-values Holm-adjusted for the number of routes.

    A ceiling is no candidate: it makes the others' adjustment no stricter, and has its own p-value.
    """
    if INCUMBENT not in routes:
        return {}
    tests = {
        name: paired_test(*scores.paired_with(routes[INCUMBENT]), confidence)
        for name, scores in routes.items()
        if name != INCUMBENT
    }
    adjusted = holm_adjust({name: test.p_value for name, test in tests.items() if name != CEILING})
    return {
        name: replace(test, p_value=adjusted.get(name, test.p_value))
        for name, test in tests.items()
    }


def better_than_incumbent(tests: Mapping[str, PairedTest], alpha: float) -> list[str]:
    """The routes of `against_incumbent` that are better by more than luck: by the adjusted test,
    and by the interval that is shown. A ceiling is none of them."""
    return [
        name
        for name, test in tests.items()
        if name != CEILING and test.p_value < alpha and test.gain.low > 0
    ]


def stopped_early_in_words(asked: Mapping[str, int]) -> str:
    """Which routes were given up, and after how many questions."""
    told = ", ".join(f"{name} after {n} drawn questions" for name, n in asked.items())
    return f"Given up early, surely worse than another route: {told}."


def seeds_in_words(values: Mapping[int, float]) -> str:
    """What trainings that differ by their seed alone reached."""
    told = ", ".join(f"{value:.1%} (seed {seed})" for seed, value in values.items())
    return f"Trained {len(values)} times: {told}. The interval of the gain includes the spread."


def _worst_p_value(routes: Mapping[str, Scores], judged: str, settings: Compare) -> float:
    """The largest p-value of the judged route against each rival, times the routes it was chosen
    from; against the plain prompt the one that the table of routes shows (Holm), so that page and
    verdict never disagree."""
    shown = compare_with_incumbent(routes, settings, 0.95)
    worst = max(
        shown[judged].p_value
        if name == INCUMBENT
        else paired_test(*routes[judged].paired_with(scores)).p_value
        for name, scores in routes.items()
        if name not in TRAINED_ROUTES
    )
    return min(worst * _candidate_count(routes), 1.0)


def _contenders(routes: Mapping[str, Scores]) -> Mapping[str, Scores]:
    """The routes that the verdict is about: no ceiling, and none that was given up, unless every
    rival was."""
    routes = {name: one for name, one in routes.items() if name != CEILING} or routes
    whole = fully_measured(routes)
    return routes if set(whole) <= set(TRAINED_ROUTES) else whole


def fully_measured(routes: Mapping[str, Scores]) -> dict[str, Scores]:
    """The routes that were asked every question."""
    most = max(len(scores.predictions) for scores in routes.values())
    return {name: one for name, one in routes.items() if len(one.predictions) == most}


def surely_worse(scores: Scores, routes: Mapping[str, Scores]) -> str | None:
    """The best of the routes measured so far, if a route that was asked only some of their
    questions is worse than it by more than luck (p < 0.005, one look); else none."""
    if not routes:
        return None
    best = max(routes, key=lambda name: routes[name].interval.value)
    return best if paired_test(*routes[best].paired_with(scores)).p_value < _HOPELESS else None


def _widen(one: Interval, other: Interval) -> Interval:
    """The first, made wide enough to hold the second."""
    return replace(one, low=min(one.low, other.low), high=max(one.high, other.high))


def _is_real(gain: PairedTest, p_value: float, alpha: float) -> bool:
    """Whether the gain is more than luck, by the test and by the interval that is shown."""
    return p_value < alpha and gain.gain.low > 0


def _share(routes: Mapping[str, Scores], alpha: float) -> float:
    """The share of a look's alpha (half of all at the first one) at each end of the interval."""
    rivals = len(routes) - _candidate_count(routes)
    return 2 * alpha / max(rivals, _candidate_count(routes), 2)


def _candidate_count(routes: Mapping[str, Scores]) -> int:
    """How many trained routes the judged one was chosen from."""
    return sum(name in TRAINED_ROUTES for name in routes)


def _most_favourable(routes: Mapping[str, Scores], rival: str, share: float) -> float:
    """The largest gain over the rival that any trained route may still have."""
    return max(
        paired_test(*scores.paired_with(routes[rival]), 1 - 2 * share).gain.high
        for name, scores in routes.items()
        if name in TRAINED_ROUTES
    )


def _rows_to_decide(
    routes: Mapping[str, Scores], pair: tuple[str, str], share: float, settings: Compare
) -> int:
    """Test rows with which the open question would be decided with the power asked for.

    A gain that looks worth having must be told from none; a smaller one from a gain that is worth
    having; both at the share of alpha that the next look will have. `pair` is the judged route
    and its rival.
    """
    ours, theirs, clusters = routes[pair[0]].paired_with(routes[pair[1]])
    gain = mean(ours) - mean(theirs)
    n, least = len(ours), settings.least_gain
    sought = max(gain if gain >= least else least, _FINEST)
    needed = rows_needed(ours, theirs, sought, share, settings.power, clusters)
    if needed <= n:
        # The gain is real but close to the least one: what is open is on which side it lies.
        apart = max(abs(gain - least), least / 4, _FINEST)
        needed = rows_needed(ours, theirs, apart, share, settings.power, clusters)
    return _round_up(max(needed - n, n // 4, 1))


def _nothing_to_decide(routes: Mapping[str, Scores]) -> Verdict:
    best = max(routes, key=lambda name: routes[name].interval.value)
    return Verdict(
        decision="not_enough_evidence",
        winner=best,
        headline="There is nothing to decide.",
        reason="A verdict needs a fine-tuned route and one that isn't; only "
        f"{', '.join(routes)} was measured.",
        judged=best_trained(routes) or "",
        rival=best,
        gain=None,
        confidence=0.0,
        p_value=None,
        visible=1.0,
        more_rows=0,
    )


_NAMES = {
    "base": "the plain prompt",
    "few_shot": "few-shot examples",
    "retrieval": "retrieval",
    "classifier": "a linear classifier on embeddings",
    "encoder": "a fine-tuned encoder",
    "fine_tuned": "fine-tuning",
    "retrieval_fine_tuned": "fine-tuning with retrieval",
}


def _explain(
    verdict: Verdict, gain: PairedTest, routes: Mapping[str, Scores], settings: Compare
) -> tuple[str, str]:
    ours, theirs, clusters = routes[verdict.judged].paired_with(routes[verdict.rival])
    metric = routes[verdict.judged].metric.replace("_", " ")
    other = _NAMES[verdict.rival]
    least, visible = (f"{100 * size:.1f} points" for size in (settings.least_gain, verdict.visible))
    untrained = sum(name not in TRAINED_ROUTES for name in routes)
    best = ", the best other route," if untrained > 1 else ""
    measured = (
        f"On the same {len(ours)} questions{_cluster_note(clusters)} "
        f"{_NAMES[verdict.judged]} reaches "
        f"{mean(ours):.1%} "
        f"{metric} and {other}{best} {mean(theirs):.1%}: "
        f"a gain of {_format_points(gain.gain.value)} "
        f"({verdict.confidence:.0%} interval {100 * gain.gain.low:+.1f} to "
        f"{100 * gain.gain.high:+.1f}); better on {gain.wins} questions, worse on {gain.losses}."
    )
    if verdict.decision == "ship":
        return "Ship the fine-tune.", (
            f"{measured} If it were no better than every other route, so clear a result would come "
            f"up {_format_chance(verdict.p_value or 0)}; a gain of {least} was asked for. "
            "What would "
            "change this: questions unlike those of the test split, or a stronger model to prompt."
        )
    if verdict.decision == "dont_fine_tune":
        lack = (
            "There is surely no gain at all that would pay"
            if gain.gain.high <= 0
            else f"The gain is surely less than the {least} asked for, too little to pay"
        )
        return "Don't fine-tune.", (
            f"{measured} {lack} for training and keeping a model of your own. Use {other}. What "
            "would change this: more or better training rows, or a larger base model."
        )
    open_question = (
        f"That is more than luck, but may be less than the {least} asked for"
        if _is_real(gain, verdict.p_value or 0, alpha_of(settings.alpha, verdict.look))
        else f"That is neither surely more than luck nor surely less than the {least} asked for"
    )
    return f"Not enough evidence: collect about {verdict.more_rows:,} more test rows.", (
        f"{measured} {open_question}: with this many questions a true gain is seen "
        f"{settings.power:.0%} of the time only from {visible} on. About {verdict.more_rows:,} "
        f"more test rows would decide it, with what the next look may spend of alpha; until then "
        f"use {other}."
    )


def _cluster_note(clusters: Sequence[int]) -> str:
    """What else is said of questions that are no independent ones."""
    if not is_clustered(clusters):
        return ""
    told = f" (of {len(set(clusters))} groups or conversations, each of which counts as one draw"
    number = effective_number(clusters)
    if number < FEW:
        told += f"; the largest weigh so much that they tell no more than {number:.1f} equal ones"
    return f"{told})"


def _looked(verdict: Verdict, settings: Compare) -> str:
    """What is said of a look that isn't the first one."""
    if verdict.look < 2:
        return ""
    spent = alpha_of(settings.alpha, verdict.look)
    return (
        f" This is look {verdict.look} at these questions: each spends its share of the "
        f"{settings.alpha:.0%} chance of a wrong ship, and this one has {spent:.2%}."
    )


def _format_points(share: float) -> str:
    return f"{100 * share:+.1f} points"


def _format_chance(p_value: float) -> str:
    return (
        "less than once in 10,000 tries"
        if p_value < 1e-4
        else f"about once in {1 / p_value:,.0f} tries"
    )


def _round_up(count: int) -> int:
    """A number of rows as one would say it: two digits, rounded up."""
    size = int(10 ** max(len(str(count)) - 2, 0))
    return -(-count // size) * size
