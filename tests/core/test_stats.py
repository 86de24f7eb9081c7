"""The statistics agree with the libraries, keep their bounds, and hold what they promise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from burnish.core import resampling, stats

bits = st.lists(st.integers(0, 1), min_size=1, max_size=60)
shares = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=20)
pairs_of_bits = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)
pairs_of_shares = st.lists(
    st.tuples(st.floats(0, 1, allow_subnormal=False), st.floats(0, 1, allow_subnormal=False)),
    min_size=2,
    max_size=15,
)
few = settings(max_examples=25, deadline=None)


@given(bits)
def test_an_interval_of_hits_is_wilsons(scores):
    found = stats.mean_interval(scores)

    low, high = proportion_confint(sum(scores), len(scores), 0.05, method="wilson")
    assert found.low == pytest.approx(max(low, 0), abs=1e-12)
    assert found.high == pytest.approx(min(high, 1), abs=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1


@few
@given(shares)
def test_an_interval_of_any_scores_lies_around_their_mean_and_within_the_scale(scores):
    found = stats.mean_interval(scores)

    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.value == pytest.approx(np.mean(scores))
    assert found == stats.mean_interval(scores), "the same seed gives the same interval"


@few
@given(shares)
def test_more_confidence_never_narrows_an_interval(scores):
    wide, narrow = (stats.mean_interval(scores, confidence=level) for level in (0.99, 0.8))

    assert wide.low <= narrow.low and narrow.high <= wide.high


@given(pairs_of_bits)
def test_the_exact_test_is_mcnemars(pairs):
    ours, theirs = zip(*pairs, strict=True)
    table = np.zeros((2, 2))
    for one, other in pairs:
        table[one, other] += 1

    found = stats.paired_test(ours, theirs)

    assert (found.wins, found.losses) == (table[1, 0], table[0, 1])
    assert found.p_two_sided == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue)
    if found.wins + found.losses:
        one_sided = binomtest(found.wins, found.wins + found.losses, 0.5, "greater")
        assert found.p_value == pytest.approx(one_sided.pvalue)


@given(pairs_of_bits)
def test_turning_the_routes_round_turns_the_gain_round(pairs):
    ours, theirs = zip(*pairs, strict=True)
    forth, back = stats.paired_test(ours, theirs), stats.paired_test(theirs, ours)

    assert forth.gain.value == pytest.approx(-back.gain.value)
    assert forth.gain.low == pytest.approx(-back.gain.high, abs=1e-9)
    assert forth.p_two_sided == pytest.approx(back.p_two_sided)
    assert forth.p_value + back.p_value >= 1


@few
@given(pairs_of_shares, st.randoms(use_true_random=False))
def test_a_paired_test_keeps_its_bounds_and_ignores_the_order_of_wins(pairs, random):
    ours, theirs = zip(*pairs, strict=True)
    found = stats.paired_test(ours, theirs)

    assert -1 <= found.gain.low <= found.gain.value <= found.gain.high <= 1
    assert 0 < found.p_value <= 1 and 0 < found.p_two_sided <= 1
    assert found.gain.value == pytest.approx(np.mean(ours) - np.mean(theirs), abs=1e-12)

    turned = random.sample(pairs, len(pairs))
    again = stats.paired_test(*zip(*turned, strict=True))
    assert (again.wins, again.losses) == (found.wins, found.losses)


def test_a_permutation_test_of_few_rows_finds_the_exact_share_of_signs():
    gaps = np.array([0.8, 0.6, 0.4, 0.4])
    one, two = resampling.sign_flip(gaps, seed=0)

    assert one == pytest.approx(1 / 16, abs=0.01)
    assert two == pytest.approx(2 / 16, abs=0.01)
    found = stats.paired_test([0.9, 0.8, 0.7, 0.65], [0.1, 0.2, 0.3, 0.25])
    assert found.p_value >= one - 0.01 and found.p_two_sided >= two - 0.01


@pytest.mark.parametrize("rare", [0.02, 0.06, 0.2])
@pytest.mark.parametrize("n", [15, 30, 60, 200])
def test_a_rare_disaster_that_a_sample_may_not_show_keeps_small_gains_from_being_sure(
    rare, n, monkeypatch
):
    """A share of the answers is spoiled wholly, the others are a little better: no true gain."""
    monkeypatch.setattr(resampling, "DRAWS", 1000)
    random, tries, better, held = np.random.default_rng(6), 400, 0, 0
    for _ in range(tries):
        gains = rare / (1 - rare) * random.uniform(0.5, 1.5, n)
        spoiled = random.random(n) < rare
        ours, theirs = (
            np.where(spoiled, 0.0, 0.5 + gains / 2),
            np.where(spoiled, 1.0, 0.5 - gains / 2),
        )
        found = stats.paired_test(ours, theirs)
        better += found.p_value < 0.05
        held += found.gain.low <= 0 <= found.gain.high

    assert better <= tries * 0.05 + 2 * math.sqrt(tries * 0.05 * 0.95)
    assert held >= tries * 0.95 - 2 * math.sqrt(tries * 0.05 * 0.95)


def test_routes_that_answer_alike_are_not_told_apart():
    for scores in ([0, 1, 1], [0.5, 0.25, 1.0]):
        found = stats.paired_test(scores, scores)

        assert found.p_value == found.p_two_sided == 1
        assert found.gain.low < 0 < found.gain.high, "three questions prove nothing"


def test_routes_asked_different_questions_cannot_be_paired():
    with pytest.raises(ValueError):
        stats.paired_test([1, 0, 1], [1, 0])


@pytest.mark.parametrize(
    "p_values",
    [{"a": 0.2}, {"a": 0.03, "b": 0.02, "c": 0.02}, {"a": 0.9, "b": 0.6, "c": 1.0, "d": 0.001}],
)
def test_holm_is_that_of_statsmodels(p_values):
    theirs = multipletests(list(p_values.values()), method="holm")[1]

    assert list(stats.holm_adjust(p_values).values()) == pytest.approx(list(theirs))
    assert list(stats.holm_adjust(p_values)) == list(p_values)


def test_holm_by_hand():
    assert stats.holm_adjust({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06}
    )
    assert stats.holm_adjust({}) == {}


@given(pairs_of_bits, st.floats(0.01, 0.5))
def test_rows_needed_and_the_smallest_visible_gain_are_inverse(pairs, gain):
    ours, theirs = zip(*pairs, strict=True)
    needed = stats.rows_needed(ours, theirs, gain)

    # The same answers given `needed` times over: the spread stays, the size is that advised.
    times = math.ceil(needed / len(pairs))
    assert stats.minimum_detectable_gain(ours * times, theirs * times) <= gain + 1e-9


def test_half_the_gain_needs_about_four_times_the_rows():
    ours, theirs = [1, 0] * 100, [0, 1] * 100
    some, more = (stats.rows_needed(ours, theirs, gain) for gain in (0.1, 0.05))

    assert 3.5 < more / some < 4.1
    with pytest.raises(ValueError):
        stats.rows_needed(ours, theirs, 0.0)


def test_of_nothing_there_is_no_estimate():
    for found in (stats.mean_interval([]), stats.paired_test([], []).gain):
        assert math.isnan(found.value) and found.n == 0
    assert stats.minimum_detectable_gain([1], [0]) == math.inf
    assert stats.quantile([], 0.5) == 0


def draws_of(random, kind, size):
    """Scores whose true mean is known: (draws, mean)."""
    if kind == "mostly right":
        return np.where(random.random(size) < 0.85, 1.0, random.beta(2, 2, size)), 0.925
    if kind == "sparse":
        return np.where(random.random(size) < 0.05, 0.5, 1.0), 0.975
    if kind == "hits":
        return (random.random(size) < 0.9).astype(float), 0.9
    return random.beta(0.3, 3, size), 0.3 / 3.3


@pytest.mark.parametrize("kind", ["mostly right", "sparse", "hits", "skewed"])
@pytest.mark.parametrize("n", [12, 60])
def test_a_95_percent_interval_holds_the_truth_in_about_95_of_100_draws(kind, n, monkeypatch):
    monkeypatch.setattr(resampling, "DRAWS", 1000)
    draws, mean = draws_of(np.random.default_rng(1), kind, (300, n))

    found = [stats.mean_interval(row.tolist()) for row in draws]

    share = np.mean([interval.low <= mean <= interval.high for interval in found])
    assert share >= 0.92


@pytest.mark.parametrize("both", [0.5, 0.75, 0.86])
@pytest.mark.parametrize("n", [40, 200])
def test_an_interval_of_a_gain_holds_the_truth_in_about_95_of_100_draws(both, n):
    random = np.random.default_rng(2)
    wins, losses = 0.08, 0.04
    cells = random.choice(4, (600, n), p=[both, wins, losses, 1 - both - wins - losses])

    found = [
        stats.paired_test(np.isin(row, (0, 1)) * 1.0, np.isin(row, (0, 2)) * 1.0).gain
        for row in cells
    ]

    share = np.mean([interval.low <= wins - losses <= interval.high for interval in found])
    assert share >= 0.935


def test_an_interval_of_a_gain_in_fine_scores_holds_the_truth_too(monkeypatch):
    monkeypatch.setattr(resampling, "DRAWS", 1000)
    random = np.random.default_rng(3)
    ours, theirs = random.beta(4, 2, (300, 40)), random.beta(3, 2, (300, 40))
    truth = 4 / 6 - 3 / 5

    found = [
        stats.paired_test(a.tolist(), b.tolist()).gain for a, b in zip(ours, theirs, strict=True)
    ]

    assert np.mean([gain.low <= truth <= gain.high for gain in found]) >= 0.92


@pytest.mark.parametrize("scale", ["hits", "fine"])
def test_equal_routes_are_called_different_no_more_often_than_alpha(scale, monkeypatch):
    monkeypatch.setattr(resampling, "DRAWS", 500)
    random = np.random.default_rng(4)
    scores = random.random((2, 500, 50))
    if scale == "hits":
        scores = (scores < 0.6) * 1.0

    p_values = [
        stats.paired_test(a.tolist(), b.tolist()).p_value for a, b in zip(*scores, strict=True)
    ]

    assert np.mean(np.array(p_values) < 0.05) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 500)


@pytest.mark.parametrize(("wins", "losses"), [(0.08, 0.04), (0.2, 0.1), (0.06, 0.01)])
def test_with_the_rows_advised_a_real_gain_is_seen_with_the_power_promised(wins, losses):
    random = np.random.default_rng(5)
    pilot = random.choice(3, 4000, p=[1 - wins - losses, wins, losses])
    n = stats.rows_needed((pilot == 1) * 1.0, (pilot == 2) * 1.0, wins - losses)

    cells = random.multinomial(n, [wins, losses, 1 - wins - losses], size=1500)
    seen = [stats.mcnemar(int(w), int(v))[0] < 0.05 for w, v, _ in cells]

    assert 0.78 <= np.mean(seen) <= 0.9


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=60))
@settings(deadline=None, max_examples=60)
def test_a_loss_bound_is_where_tango_s_score_test_turns(pairs):
    before, after = zip(*pairs, strict=True)
    n, lost, won = len(pairs), pairs.count((1, 0)), pairs.count((0, 1))
    bound = stats.loss_bound(before, after)

    assert (lost - won) / n <= bound <= 1
    if not won and lost < n:
        # The exact test of a share: so few are lost in 5 % of draws.
        assert binom.cdf(lost, n, bound) <= 0.05 + 1e-9
    elif lost - won < n and 1e-6 < bound < 1:
        # The likelihood's own maximum under "the loss is `bound`", found by trying.
        rare = np.linspace(max(-bound, 0), (1 - bound) / 2, 200_001)[1:-1]
        logs = lost * np.log(rare + bound) + won * np.log(rare)
        logs += (n - lost - won) * np.log1p(-2 * rare - bound)
        at = float(rare[logs.argmax()])
        score = (lost - won - n * bound) / math.sqrt(n * (2 * at + bound - bound**2))
        assert score == pytest.approx(-1.645, abs=0.02)


@pytest.mark.parametrize("won", [0.0, 0.005, 0.02])
def test_a_loss_as_large_as_allowed_is_passed_in_at_most_alpha(won):
    random, n, loss, tries = np.random.default_rng(8), 300, 0.01, 1000
    cells = random.multinomial(n, [loss + won, won, 1 - loss - 2 * won], tries)
    bounds = {}
    for lost, gained, _ in cells.tolist():
        if (lost, gained) not in bounds:
            before = [1] * lost + [0] * gained + [1] * (n - lost - gained)
            after = [0] * lost + [1] * gained + [1] * (n - lost - gained)
            bounds[lost, gained] = stats.loss_bound(before, after)
    passed = sum(bounds[lost, gained] <= loss for lost, gained, _ in cells.tolist())

    assert passed <= tries * 0.05 + 2 * math.sqrt(tries * 0.05 * 0.95)


def test_a_loss_bound_says_something_where_nothing_changed():
    same = [1.0] * 268 + [0.0] * 32

    assert stats.loss_bound(same, same) == pytest.approx(1 - 0.05 ** (1 / 300), abs=1e-4)
    assert stats.loss_bound([1, 1], [0, 0]) == 1.0
    assert stats.loss_bound([0.5] * 40, [0.5] * 40) < 0.1


@given(pairs_of_shares)
@few
def test_a_ratio_lies_in_its_interval_and_is_that_of_the_means(pairs):
    ours, theirs = zip(*pairs, strict=True)
    found = stats.ratio_of_means(ours, theirs)

    if not sum(theirs):
        assert math.isnan(found.value)
        return
    assert found.value == pytest.approx(sum(ours) / sum(theirs))
    assert found.low <= found.high and found.n == len(pairs)
    assert stats.ratio_of_means(theirs, theirs).low == pytest.approx(1.0)


def test_a_ratios_interval_covers_the_true_ratio_as_often_as_it_says():
    draw = np.random.default_rng(3)
    hits = 0
    for _ in range(100):
        theirs = draw.random(60) < 0.9
        ours = theirs & (draw.random(60) < 0.8)
        found = stats.ratio_of_means(ours.astype(float), theirs.astype(float), confidence=0.9)
        hits += found.low <= 0.8 <= found.high
    assert 80 <= hits <= 98


def test_a_quantile_s_interval_covers_it_and_says_when_few_values_cannot():
    draw = np.random.default_rng(5)
    inside = 0
    for _ in range(400):
        found = stats.quantile_interval(draw.exponential(size=200).tolist(), 0.95, 0.95)
        inside += found.low <= -math.log(0.05) <= found.high
    assert inside >= 0.93 * 400
    assert stats.quantile_interval([1.0] * 24, 0.95).high == math.inf
    assert stats.quantile_interval([], 0.95).low == -math.inf


def test_a_gap_of_quantiles_is_paired():
    draw = np.random.default_rng(6)
    base = draw.exponential(size=300)
    slower = stats.quantile_gap((base + 0.05).tolist(), base.tolist(), 0.95)
    assert slower.low > 0.04 and slower.high < 0.06
    assert stats.quantile_gap(base.tolist(), base.tolist(), 0.95).low == 0
    with pytest.raises(ValueError, match="as many"):
        stats.quantile_gap([1.0], [1.0, 2.0], 0.5)


def test_a_gain_over_seeds_covers_what_a_training_gives_where_one_training_does_not(monkeypatch):
    """Trainings whose true rate is 0.7, give or take 0.05, beside a rival of 0.6."""
    monkeypatch.setattr(resampling, "DRAWS", 500)
    random = np.random.default_rng(21)
    several, single, tries = 0, 0, 200
    for _ in range(tries):
        theirs = (random.random(400) < 0.6) * 1.0
        rates = random.normal(0.7, 0.05, 3)
        trainings = [(random.random(400) < rate) * 1.0 for rate in rates]
        found = stats.repeated_gain(trainings, theirs)
        alone = stats.paired_test(trainings[0], theirs).gain
        several += found.low <= 0.1 <= found.high
        single += alone.low <= 0.1 <= alone.high

    assert several / tries >= 0.95 - 2 * math.sqrt(0.95 * 0.05 / tries)
    assert single < 0.9 * tries


def test_a_spread_needs_two_trainings():
    with pytest.raises(ValueError, match="two trainings"):
        stats.repeated_gain([[1.0, 0.0]], [0.0, 0.0])
