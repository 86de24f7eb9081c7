"""The verdict keeps its promises: seldom ships what is no better, seldom drops what is."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from burnish.compare.looks import alpha_of
from burnish.compare.verdict import (
    better_than_incumbent,
    compare_with_incumbent,
    decide,
    surely_worse,
)
from burnish.core import resampling, stats
from burnish.core.recipe.compare import Compare
from burnish.core.records import Prediction, Scores
from burnish.core.stats import mean_interval


def scores(values):
    """Scores of a route, one a question."""
    values = [float(value) for value in values]
    predictions = [
        Prediction(str(number), "q", "a", "b", value, 1, 1, 0.1)
        for number, value in enumerate(values)
    ]
    return Scores("accuracy", predictions, mean_interval(values))


def hits(right, n=200, begin=0):
    """`right` questions answered rightly from number `begin` on, of n."""
    return scores([begin <= number < begin + right for number in range(n)])


def test_a_large_gain_over_every_route_ships():
    verdict = decide({"base": hits(80), "few_shot": hits(90), "fine_tuned": hits(140)}, Compare())

    assert (verdict.decision, verdict.winner, verdict.rival) == ("ship", "fine_tuned", "few_shot")
    assert verdict.p_value < 1e-6 and verdict.more_rows == 0
    assert "140" not in verdict.reason and "+25.0 points" in verdict.reason


def test_a_gain_that_another_seed_does_not_give_is_no_evidence():
    routes = {"base": hits(80), "few_shot": hits(90), "fine_tuned": hits(140)}
    alone, steady = decide(routes, Compare()), decide(routes, Compare(), [hits(139), hits(141)])
    shaky = decide(routes, Compare(), [hits(85), hits(138)])

    assert (steady.decision, shaky.decision) == ("ship", "not_enough_evidence")
    assert shaky.gain.gain.low < steady.gain.gain.low <= alone.gain.gain.low
    assert shaky.gain.gain.value == alone.gain.gain.value


def of_customers(found, size):
    """The same route; so many questions, one behind the other, are of one customer."""
    grouped = [
        replace(one, group=f"customer {place // size}")
        for place, one in enumerate(found.predictions)
    ]
    return replace(found, predictions=grouped)


def test_a_gain_at_a_few_customers_is_no_evidence_of_one_at_others():
    routes = {"base": hits(80), "few_shot": hits(80), "fine_tuned": hits(115)}
    grouped = {name: of_customers(one, 20) for name, one in routes.items()}

    alone, found = decide(routes, Compare()), decide(grouped, Compare())

    assert (alone.decision, found.decision) == ("ship", "not_enough_evidence")
    assert "200 questions (of 10 groups or conversations" in found.reason
    assert "groups" not in alone.reason
    assert found.gain.gain.value == pytest.approx(alone.gain.gain.value)
    assert found.gain.gain.low < alone.gain.gain.low and found.visible > alone.visible
    assert (found.gain.wins, found.gain.losses) == (35, 0)
    assert found.more_rows > 200


def part(found, count):
    """The same route, asked every fourth question only."""
    some = found.predictions[::4][:count]
    return replace(found, predictions=some, interval=mean_interval([one.score for one in some]))


def test_a_route_that_was_given_up_has_no_say_and_is_paired_by_question():
    routes = {"base": part(hits(30, 1200), 256), "few_shot": hits(700, 1200)}
    routes["fine_tuned"] = hits(900, 1200)
    verdict, tests = decide(routes, Compare()), compare_with_incumbent(routes, Compare(), 0.95)

    assert (verdict.decision, verdict.rival) == ("ship", "few_shot")
    assert verdict.gain == decide({**routes, "base": hits(30, 1200)}, Compare()).gain
    # Of the 256 questions 4 apart 8 are among the first 30, and 225 among the first 900.
    assert (tests["fine_tuned"].wins, tests["fine_tuned"].losses) == (225 - 8, 0)
    assert tests["fine_tuned"].gain.n == 256


def test_where_every_rival_was_given_up_the_verdict_is_about_the_questions_they_were_asked():
    routes = {"base": part(hits(30, 1200), 256), "fine_tuned": hits(900, 1200)}
    verdict = decide(routes, Compare())

    assert (verdict.decision, verdict.gain.gain.n) == ("ship", 256)
    assert "On the same 256 questions fine-tuning reaches 87.9%" in verdict.reason


def test_an_equal_route_is_given_up_in_at_most_one_of_two_hundred():
    random = np.random.default_rng(31)
    given_up = 0
    for _ in range(400):
        one, other = correlated(random, (0.7, 0.7), 256)
        given_up += surely_worse(scores(other), {"fine_tuned": scores(one)}) is not None

    assert given_up / 400 <= 0.005 + 2 * math.sqrt(0.005 * 0.995 / 400)
    assert surely_worse(scores(other), {}) is None
    assert surely_worse(hits(100, 256), {"fine_tuned": hits(200, 256)}) == "fine_tuned"


def test_beating_the_plain_prompt_is_not_enough_if_examples_do_as_well():
    verdict = decide({"base": hits(80), "few_shot": hits(140), "fine_tuned": hits(141)}, Compare())

    assert verdict.decision != "ship" and verdict.winner == "few_shot"


def test_a_worse_fine_tune_is_dropped():
    verdict = decide({"base": hits(150), "fine_tuned": hits(110)}, Compare())

    assert (verdict.decision, verdict.winner) == ("dont_fine_tune", "base")
    assert "no gain at all" in verdict.reason


def test_a_gain_that_is_real_but_too_small_is_not_shipped():
    settings = Compare(least_gain=0.2)
    verdict = decide({"base": hits(500, 1000), "fine_tuned": hits(560, 1000)}, settings)

    assert verdict.decision == "dont_fine_tune"
    assert "less than the 20.0 points asked for" in verdict.reason


def test_few_questions_prove_nothing_and_the_verdict_says_how_many_would():
    ours = scores([1, 1, 1, 0, 0, 1, 1, 0] * 3)
    theirs = scores([1, 0, 1, 0, 1, 1, 0, 0] * 3)

    verdict = decide({"base": theirs, "fine_tuned": ours}, Compare())

    assert verdict.decision == "not_enough_evidence" and verdict.winner == "base"
    assert f"about {verdict.more_rows:,} more test rows" in verdict.headline
    with_more = {
        "base": scores(theirs.values * (1 + math.ceil(verdict.more_rows / 24))),
        "fine_tuned": scores(ours.values * (1 + math.ceil(verdict.more_rows / 24))),
    }
    assert decide(with_more, Compare()).decision == "ship"


def test_a_real_gain_near_the_least_one_asks_which_side_it_lies_on():
    ours, theirs = hits(1040, 2000), hits(1005, 2000)

    verdict = decide({"base": theirs, "fine_tuned": ours}, Compare(least_gain=0.02))

    assert verdict.decision == "not_enough_evidence" and verdict.p_value < 0.05
    assert "more than luck, but may be less" in verdict.reason and verdict.more_rows > 0


def test_equal_answers_on_three_questions_are_no_proof_of_anything():
    for values in ([1, 0, 1], [0.5, 0.25, 1]):
        routes = {"base": scores(values), "fine_tuned": scores(values)}

        assert decide(routes, Compare()).decision == "not_enough_evidence"


@pytest.mark.parametrize("names", [("base", "few_shot"), ("fine_tuned",)])
def test_without_a_fine_tune_and_a_rival_there_is_nothing_to_decide(names):
    verdict = decide({name: hits(10 + len(name)) for name in names}, Compare())

    assert verdict.decision == "not_enough_evidence" and "nothing to decide" in verdict.headline


def test_what_the_table_shows_and_what_the_verdict_says_never_disagree():
    random = np.random.default_rng(0)
    for _ in range(60):
        rates = random.uniform(0.4, 0.6, 3)
        names = ("base", "few_shot", "fine_tuned")
        routes = {
            name: scores(random.random(150) < rate) for name, rate in zip(names, rates, strict=True)
        }
        verdict, table = decide(routes, Compare()), compare_with_incumbent(routes, Compare(), 0.95)

        assert verdict.p_value >= table["fine_tuned"].p_value
        if verdict.decision == "ship":
            assert table["fine_tuned"].p_value < 0.05


def test_what_beats_the_plain_prompt_is_named_whatever_becomes_of_the_fine_tune():
    routes = {"base": hits(80), "few_shot": hits(140), "fine_tuned": hits(81), "teacher": hits(190)}
    tests = compare_with_incumbent(routes, Compare(), 0.95)

    assert better_than_incumbent(tests, 0.05) == ["few_shot"]
    assert better_than_incumbent({}, 0.05) == []


def correlated(random, rates, n, spread=1.0):
    """0/1 scores of several routes: hard questions are hard for all of them."""
    hard = random.normal(0, spread, n)
    noise = random.normal(0, 1, (len(rates), n))
    draws = (hard + noise) / math.hypot(spread, 1)
    return [draw > norm.isf(rate) for draw, rate in zip(draws, rates, strict=True)]


def decisions(rates, settings, n, draws=300, spread=1.0):
    """How often each decision falls over simulated comparisons of routes with these true rates."""
    random = np.random.default_rng(11)
    names = ("base", "few_shot", "fine_tuned") if len(rates) == 3 else ("base", "fine_tuned")
    made = []
    for _ in range(draws):
        answers = correlated(random, rates, n, spread)
        routes = {name: scores(values) for name, values in zip(names, answers, strict=True)}
        made.append(decide(routes, settings).decision)
    return {kind: made.count(kind) / draws for kind in ("ship", "dont_fine_tune")}


SLACK = 2 * math.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize(
    "rates",
    [(0.5, 0.5, 0.5), (0.3, 0.6, 0.6), (0.6, 0.3, 0.6), (0.85, 0.9, 0.9), (0.7, 0.7)],
    ids=["all equal", "examples as good", "prompt as good", "few errors", "two routes"],
)
def test_a_fine_tune_that_is_no_better_than_the_best_rival_ships_in_at_most_alpha(rates):
    # Without a least gain, so that the test alone must hold.
    found = decisions(rates, Compare(least_gain=0.0), n=150)

    assert found["ship"] <= 0.05 + SLACK


@pytest.mark.parametrize("rates", [(0.5, 0.5, 0.6), (0.3, 0.5, 0.6)])
def test_a_gain_worth_having_is_dropped_in_at_most_alpha(rates):
    found = decisions(rates, Compare(least_gain=0.1), n=150)

    assert found["dont_fine_tune"] <= 0.05 + SLACK


def test_a_planted_gain_ships_with_the_power_promised():
    random = np.random.default_rng(12)
    ours, theirs = correlated(random, (0.72, 0.6), 4000)
    n = stats.rows_needed(ours * 1.0, theirs * 1.0, 0.12, Compare().alpha / 2)

    found = decisions((0.6, 0.72), Compare(least_gain=0.02), n=n)

    assert 0.74 <= found["ship"] <= 0.92


def test_fine_scores_without_a_gain_ship_in_at_most_alpha(monkeypatch):
    monkeypatch.setattr(resampling, "DRAWS", 500)
    random = np.random.default_rng(13)
    shipped = 0
    for _ in range(200):
        names = ("base", "few_shot", "fine_tuned")
        routes = {name: scores(random.beta(2, 1, 60)) for name in names}
        shipped += decide(routes, Compare(least_gain=0.0)).decision == "ship"

    assert shipped / 200 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 200)


@given(
    st.lists(st.tuples(*3 * [st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0])]), min_size=2, max_size=40),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_what_ships_has_a_gain_whose_whole_interval_is_above_nothing(rows, whole):
    routes = [scores(round(v) if whole else v for v in route) for route in zip(*rows, strict=True)]
    verdict = decide(dict(zip(("base", "few_shot", "fine_tuned"), routes, strict=True)), Compare())

    gain = verdict.gain.gain
    assert verdict.confidence >= 0.95
    if verdict.decision == "ship":
        assert gain.low > 0 and verdict.p_value < 0.05
    if verdict.decision == "dont_fine_tune":
        assert gain.high < Compare().least_gain


def test_a_few_small_gains_beside_one_great_loss_do_not_ship_although_the_signs_speak_for_it():
    # 19 of 20 answers are a little better; one lost nearly everything. The test of signs says 0.05
    # or less of the sum's sign at times, the interval knows that one such loss eats it all.
    base = [0.3] * 19 + [0.95]
    verdict = decide(
        {"base": scores(base), "fine_tuned": scores([0.4] * 19 + [0.05])}, Compare(least_gain=0)
    )

    assert verdict.gain.gain.low < 0 < verdict.gain.gain.value
    assert verdict.decision == "not_enough_evidence"


def test_a_small_gain_on_nearly_all_questions_ships_from_a_size_on_that_would_show_a_disaster():
    random = np.random.default_rng(0)
    found = {}
    for n in (24, 80):
        base = random.uniform(0.2, 0.5, n)
        routes = {"base": scores(base), "fine_tuned": scores(base + random.normal(0.08, 0.08, n))}
        found[n] = decide(routes, Compare())

    # One answer in ten that loses everything would eat the gain: 24 questions may miss it.
    assert found[24].decision == "not_enough_evidence" and found[24].more_rows > 0
    assert found[80].decision == "ship" and found[80].gain.gain.low > 0


def of_sizes(found, sizes):
    """The same route; its first questions are of one customer, the next of another."""
    owners = [f"customer {number}" for number, size in enumerate(sizes) for _ in range(size)]
    grouped = [
        replace(one, group=owner) for one, owner in zip(found.predictions, owners, strict=True)
    ]
    return replace(found, predictions=grouped)


def test_one_customer_with_most_rows_ships_nothing_and_is_named():
    sizes = [100] + [1] * 10
    random, shipped = np.random.default_rng(17), 0
    for _ in range(200):
        leans = random.normal(0, 1, (2, 11)).repeat(sizes, axis=1)
        marks = leans + random.normal(0, 0.5, (2, 110))
        routes = {
            name: of_sizes(scores(mark > 0), sizes)
            for name, mark in zip(("base", "fine_tuned"), marks, strict=True)
        }
        verdict = decide(routes, Compare(least_gain=0.0))
        shipped += verdict.decision == "ship"

    assert shipped / 200 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 200)
    assert "tell no more than 1.2 equal ones" in verdict.reason
    assert verdict.visible == 1.0


def test_each_further_look_spends_less_of_alpha_and_says_so():
    routes = {"base": hits(80), "few_shot": hits(100), "fine_tuned": hits(122)}
    first, third = decide(routes, Compare()), decide(routes, Compare(), look=3)

    assert first.look == 1 and "look" not in first.reason.split("What would")[0]
    assert third.confidence == pytest.approx(1 - 2 * 0.1 / 12 / 2)
    assert third.gain.gain.low < first.gain.gain.low
    assert "This is look 3 at these questions" in third.reason
    assert sum(alpha_of(0.05, look) for look in range(1, 10_000)) == pytest.approx(0.05, abs=1e-4)


def test_following_the_advice_to_collect_more_rows_ships_what_is_no_better_in_at_most_alpha():
    random, shipped, tries = np.random.default_rng(23), 0, 120
    for _ in range(tries):
        answers = {"base": [], "fine_tuned": []}
        rows = 100
        for look in range(1, 5):
            for name, more in zip(answers, correlated(random, (0.6, 0.6), rows), strict=True):
                answers[name] += more.tolist()
            routes = {name: scores(values) for name, values in answers.items()}
            verdict = decide(routes, Compare(least_gain=0.0), look=look)
            if verdict.decision != "not_enough_evidence":
                break
            rows = min(verdict.more_rows, 500)
        shipped += verdict.decision == "ship"

    assert shipped / tries <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / tries)


def test_of_two_fine_tunes_the_better_is_judged_against_those_that_do_not_train():
    routes = {
        "base": hits(80), "retrieval": hits(100), "fine_tuned": hits(90),
        "retrieval_fine_tuned": hits(140),
    }  # fmt: skip

    verdict = decide(routes, Compare())

    assert (verdict.decision, verdict.judged, verdict.rival) == (
        "ship", "retrieval_fine_tuned", "retrieval",
    )  # fmt: skip
    assert "fine-tuning with retrieval reaches" in verdict.reason
    lost = decide({**routes, "retrieval_fine_tuned": hits(60), "fine_tuned": hits(50)}, Compare())
    assert (lost.decision, lost.winner) == ("dont_fine_tune", "retrieval")
    assert "Use retrieval." in lost.reason


def test_the_better_of_two_equal_fine_tunes_is_not_shipped_by_luck():
    random = np.random.default_rng(1)
    shipped = 0
    for _ in range(300):
        names = ("base", "retrieval", "fine_tuned", "retrieval_fine_tuned")
        routes = {name: scores((random.random(100) < 0.5).astype(float)) for name in names}
        shipped += decide(routes, Compare(least_gain=0.0)).decision == "ship"

    assert shipped <= 300 * 0.05 + 3 * (300 * 0.05 * 0.95) ** 0.5
