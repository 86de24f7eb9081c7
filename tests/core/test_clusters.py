"""Questions that hang together count as one draw: intervals hold, and chance ships nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.core import stats
from burnish.core.clusters import cluster_values, is_clustered
from burnish.core.records import Interval, Prediction, Scores

numbers = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8)), min_size=1, max_size=40)


@given(numbers)
def test_the_mean_is_that_of_the_values(pairs):
    values, clusters = zip(*pairs, strict=True)

    found = cluster_values(values, clusters)

    assert len(found) == len(set(clusters))
    assert found.mean() == pytest.approx(np.mean(values))
    sizes = [clusters.count(own) for own in sorted(set(clusters))]
    if len(set(sizes)) == 1:
        means = [np.mean([v for v, c in pairs if c == own]) for own in sorted(set(clusters))]
        assert found == pytest.approx(means)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=20))
def test_questions_that_stand_alone_are_judged_as_ever(pairs):
    ours, theirs = map(list, zip(*pairs, strict=True))
    alone = list(range(len(ours)))

    assert not is_clustered(alone)
    assert stats.mean_interval(ours, alone) == stats.mean_interval(ours)
    assert stats.paired_test(ours, theirs, alone) == stats.paired_test(ours, theirs)
    assert stats.minimum_detectable_gain(
        ours, theirs, clusters=alone
    ) == stats.minimum_detectable_gain(ours, theirs)


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


def test_intervals_hold_the_true_rate_although_questions_hang_together():
    random, held = np.random.default_rng(0), {"known": 0, "ignored": 0}
    for _ in range(200):
        ours, _, clusters = drawn(random, 30, 6)
        for name, given_clusters in (("known", clusters), ("ignored", ())):
            found = stats.mean_interval(ours, given_clusters)
            held[name] += found.low <= 0.5 <= found.high

    assert held["known"] >= 182
    assert held["ignored"] < 165, "or the test shows nothing"


def test_routes_that_are_equal_seldom_look_different_although_questions_hang_together():
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
    assert stats.minimum_detectable_gain(
        ours, theirs, clusters=clusters
    ) > stats.minimum_detectable_gain(ours, theirs)


def test_scores_know_which_questions_hang_together():
    def scores(rows):
        said = [Prediction(row, "", "", "", 1.0, 1, 1, 0.0, group=group) for row, group in rows]
        return Scores("accuracy", said, Interval(1, 1, 1, len(said)))

    one = scores([("a", ""), ("b", "x"), ("c", "x"), ("a", "")])
    other = scores([("b", "x"), ("c", "x")])

    assert one.clusters == [0, 1, 1, 3]
    assert one.paired_with(other) == ([1.0, 1.0], [1.0, 1.0], [0, 0])
