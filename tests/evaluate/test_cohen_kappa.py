"""Cohen's kappa against other hands, and its interval where it is hardest."""

import random

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa

from burnish.evaluate.cohen_kappa import measure_agreement

GRADES = ("right", "partly", "wrong")


def pairs(count, share, seed):
    """Grades of two graders; the second says the first's in `share` of the cases, else any."""
    draw = random.Random(seed)
    first = draw.choices(GRADES, (5, 1, 4), k=count)
    return first, [one if draw.random() < share else draw.choice(GRADES) for one in first]


@pytest.mark.parametrize(("count", "share"), [(50, 0.8), (200, 0.3), (37, 0.0)])
def test_kappa_is_that_of_scikit_learn(count, share):
    first, second = pairs(count, share, count)

    found = measure_agreement(first, second, GRADES)

    assert found.kappa.value == pytest.approx(cohen_kappa_score(first, second, labels=GRADES))
    assert found.share == pytest.approx(
        np.mean([a == b for a, b in zip(first, second, strict=True)])
    )
    assert sum(map(sum, found.table)) == found.kappa.n == count


def test_with_many_answers_the_interval_is_the_asymptotic_one():
    found = measure_agreement(*pairs(2000, 0.7, 1), GRADES)

    theirs = cohens_kappa(np.array(found.table))
    assert found.kappa.low == pytest.approx(theirs.kappa_low, abs=0.01)
    assert found.kappa.high == pytest.approx(theirs.kappa_upp, abs=0.01)


def test_few_answers_without_a_disagreement_are_not_surely_perfect():
    people = ["right"] * 20 + ["wrong"] * 10

    found = measure_agreement(people, people, ("right", "wrong"))

    assert found.kappa.value == found.kappa.high == 1
    assert 0.6 < found.kappa.low < 0.95
    assert measure_agreement(people * 10, people * 10, ("right", "wrong")).kappa.low > 0.95


def test_a_grader_who_says_the_same_of_all_agrees_by_chance():
    people = ["right"] * 30 + ["wrong"] * 20

    found = measure_agreement(people, ["right"] * 50, ("right", "wrong"))

    assert found.kappa.value == 0 and found.share == 0.6


def test_the_interval_holds_the_truth_as_often_as_it_says():
    draws, held = np.random.default_rng(5), 0
    shares = np.array([[0.5, 0.08], [0.07, 0.35]])
    truth = 0.85 - (shares.sum(0) * shares.sum(1)).sum()
    truth /= 1 - (shares.sum(0) * shares.sum(1)).sum()
    for draw in range(150):
        cells = draws.choice(4, 60, p=shares.ravel())
        names = ("right", "wrong")
        one, other = [names[c // 2] for c in cells], [names[c % 2] for c in cells]
        found = measure_agreement(one, other, names, seed=draw)
        held += found.kappa.low <= truth <= found.kappa.high

    assert held / 150 > 0.89
