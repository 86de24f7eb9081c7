"""Questions that hang together count as one draw: intervals hold, and chance ships nothing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from burnish.core import resampling, stats
from burnish.core.clusters import cluster_sums, effective_number, is_clustered
from burnish.core.records import Interval, Prediction, Scores
from burnish.core.stats import minimum_detectable_gain

numbers = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8)), min_size=1, max_size=40)


@given(numbers)
def test_the_sums_and_sizes_of_clusters_keep_the_mean(pairs):
    values, clusters = zip(*pairs, strict=True)

    sums, sizes = cluster_sums(values, clusters)

    assert len(sums) == len(set(clusters)) and sizes.sum() == len(values)
    assert sums.sum() / sizes.sum() == pytest.approx(np.mean(values), abs=1e-12)
    assert 1 - 1e-9 <= effective_number(clusters) <= len(set(clusters)) + 1e-9


def test_the_effective_number_of_clusters_is_that_of_equal_ones():
    assert effective_number([0, 0, 1, 1, 2, 2]) == pytest.approx(3)
    # One customer with 100 rows and ten with one.
    assert effective_number([0] * 100 + list(range(1, 11))) == pytest.approx(110**2 / 10_010)
    assert effective_number([]) == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=20))
def test_questions_that_stand_alone_are_judged_as_ever(pairs):
    ours, theirs = map(list, zip(*pairs, strict=True))
    alone = list(range(len(ours)))

    assert not is_clustered(alone)
    assert stats.mean_interval(ours, alone) == stats.mean_interval(ours)
    assert stats.paired_test(ours, theirs, alone) == stats.paired_test(ours, theirs)
    assert minimum_detectable_gain(ours, theirs, clusters=alone) == minimum_detectable_gain(
        ours, theirs
    )


def drawn(random, clusters, size, rates=(0.5, 0.5)):
    """0/1 scores of two routes; each cluster has a leaning of its own for each of them."""
    leaning = random.normal(size=(2, clusters, 1))
    own = random.normal(size=(2, clusters, size))
    marks = (leaning + own) / np.sqrt(2)
    cuts = np.quantile(random.normal(size=100_000), [1 - rate for rate in rates])
    ours, theirs = (
        (mark > cut).astype(float).ravel() for mark, cut in zip(marks, cuts, strict=True)
    )
    return ours, theirs, np.repeat(np.arange(clusters), size)


def test_intervals_hold_the_true_rate_although_questions_is_clustered():
    random, held = np.random.default_rng(0), {"known": 0, "ignored": 0}
    for _ in range(200):
        ours, _, clusters = drawn(random, 30, 6)
        for name, given_clusters in (("known", clusters), ("ignored", ())):
            found = stats.mean_interval(ours, given_clusters)
            held[name] += found.low <= 0.5 <= found.high

    assert held["known"] >= 182
    assert held["ignored"] < 165, "or the test shows nothing"


def test_routes_that_are_equal_seldom_look_different_although_questions_is_clustered():
    random, found = np.random.default_rng(1), {"known": 0, "ignored": 0}
    for _ in range(200):
        ours, theirs, clusters = drawn(random, 30, 10)
        for name, given_clusters in (("known", clusters), ("ignored", ())):
            found[name] += stats.paired_test(ours, theirs, given_clusters).p_two_sided < 0.05

    assert found["known"] <= 19
    assert found["ignored"] > 40, "or the test shows nothing"


def test_more_of_the_same_customers_are_needed():
    ours, theirs, clusters = drawn(np.random.default_rng(2), 20, 8, rates=(0.6, 0.5))

    known, ignored = (
        stats.rows_needed(ours, theirs, 0.05, clusters=some) for some in (clusters, ())
    )

    assert known > 1.5 * ignored
    assert minimum_detectable_gain(ours, theirs, clusters=clusters) > minimum_detectable_gain(
        ours, theirs
    )


def test_scores_know_which_questions_is_clustered():
    def scores(rows):
        said = [Prediction(row, "", "", "", 1.0, 1, 1, 0.0, group=group) for row, group in rows]
        return Scores("accuracy", said, Interval(1, 1, 1, len(said)))

    one = scores([("a", ""), ("b", "x"), ("c", "x"), ("a", "")])
    other = scores([("b", "x"), ("c", "x")])

    assert one.clusters == [0, 1, 1, 3]
    assert one.paired_with(other) == ([1.0, 1.0], [1.0, 1.0], [0, 0])


#: Sizes of clusters: one customer who has most rows, two who share most, many small ones.
UNEQUAL = ([100] + [1] * 10, [50, 50] + [1] * 20, [40, 20, 10, 5] + [1] * 50)


def of_sizes(random, sizes, rate=0.6):
    """0/1 scores of two equal routes; each cluster leans strongly to one of them."""
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    leaning = 2 * random.normal(size=(2, len(sizes)))[:, clusters]
    marks = (leaning + random.normal(size=(2, len(clusters)))) / np.sqrt(5)
    ours, theirs = (marks < norm.ppf(rate)).astype(float)
    return ours, theirs, clusters.tolist()


@pytest.mark.parametrize("sizes", UNEQUAL, ids=["one large", "two large", "some large"])
def test_a_few_large_clusters_do_not_make_equal_routes_look_different(sizes, monkeypatch):
    monkeypatch.setattr(resampling, "DRAWS", 1000)
    random, tries, better, held, mean_held = np.random.default_rng(3), 400, 0, 0, 0
    for _ in range(tries):
        ours, theirs, clusters = of_sizes(random, sizes)
        found = stats.paired_test(ours, theirs, clusters)
        better += found.p_value < 0.05
        held += found.gain.low <= 0 <= found.gain.high
        one = stats.mean_interval(ours, clusters)
        mean_held += one.low <= 0.6 <= one.high

    assert better <= tries * 0.05 + 2 * np.sqrt(tries * 0.05 * 0.95)
    assert min(held, mean_held) >= tries * 0.95 - 2 * np.sqrt(tries * 0.05 * 0.95)


@pytest.mark.parametrize("sizes", [[6] * 40, [15, 10, 8] + [3] * 60], ids=["equal", "unequal"])
def test_with_the_rows_advised_a_gain_is_seen_although_questions_is_clustered(sizes, monkeypatch):
    monkeypatch.setattr(resampling, "DRAWS", 1000)
    random = np.random.default_rng(4)

    def answers(times):
        every = sizes * times
        clusters = np.repeat(np.arange(len(every)), every)
        leaning = random.normal(size=(2, len(every)))[:, clusters]
        marks = (leaning + random.normal(size=(2, len(clusters)))) / np.sqrt(2)
        cuts = norm.ppf([[0.63], [0.55]])
        ours, theirs = (marks < cuts).astype(float)
        return ours, theirs, clusters.tolist()

    pilot = answers(40)
    needed = stats.rows_needed(pilot[0], pilot[1], 0.08, clusters=pilot[2])
    times = math.ceil(needed / sum(sizes))
    seen = [stats.paired_test(*answers(times)).p_value < 0.05 for _ in range(200)]

    ours, theirs, clusters = answers(times)
    assert minimum_detectable_gain(ours, theirs, clusters=clusters) == pytest.approx(
        0.08, abs=0.015
    )
    assert 0.72 <= np.mean(seen) <= 0.9


def test_one_large_cluster_shows_nothing_however_large_the_gain():
    ours, theirs, clusters = [1.0] * 110, [0.0] * 110, [0] * 100 + list(range(1, 11))

    assert minimum_detectable_gain(ours, theirs, clusters=clusters) == np.inf
    assert stats.rows_needed(ours, theirs, 0.1, clusters=clusters) > 500
