"""When a training has paid for itself: work is counted, times only say by how much."""

import pytest

from burnish.compare.break_even import Work, costs_in_words, training_costs

QUICK, SLOW = (
    [0.1, 0.12, 0.09, 0.11, 0.1, 0.13, 0.1, 0.11],
    [0.3, 0.33, 0.3, 0.31, 0.29, 0.35, 0.3, 0.3],
)


def work(**routes):
    """Tokens and times of routes, whose price is that of their seconds."""
    return {name: Work(tokens, times, sum(times) / 8) for name, (tokens, times) in routes.items()}


def test_shorter_prompts_pay_for_the_training_after_so_many_requests():
    routes = work(
        base=(60, SLOW), few_shot=(600, SLOW), retrieval=(400, SLOW), fine_tuned=(50, QUICK)
    )
    costs = training_costs(routes, "fine_tuned", training_seconds=1800, price_per_hour=2.0)

    assert costs.training == pytest.approx(1.0)
    assert costs.rival == "retrieval", "the one of the longer prompts that reads least"
    assert costs.saved.low <= costs.saved.value <= costs.saved.high
    saved = 0.31 - sum(QUICK) / 8
    assert costs.break_even == pytest.approx(1000 / saved, rel=0.01)
    assert costs.break_even_at_most >= costs.break_even
    assert "8.0 times the tokens" in costs_in_words(costs) and "after about" in costs_in_words(
        costs
    )


def test_a_busy_machine_does_not_make_the_longer_prompt_the_cheaper_one():
    """The fine-tune was timed while the machine had other work: it took twice as long."""
    loaded = [2 * one * (1 + place % 3) for place, one in enumerate(QUICK)]
    routes = work(few_shot=(600, SLOW), fine_tuned=(100, loaded))
    routes["fine_tuned"] = Work(100, loaded, 1.0, busy=0.7)
    costs = training_costs(routes, "fine_tuned", 60, 1.0)

    assert costs.break_even is None
    told = costs_in_words(costs)
    assert "never" not in told and "saves work with each request" in told
    assert "6.0 times the tokens" in told and "used 70% of the processors" in told


def test_a_fine_tune_that_reads_as_much_never_pays():
    costs = training_costs(work(few_shot=(50, SLOW), fine_tuned=(50, QUICK)), "fine_tuned", 60, 1.0)

    assert costs.break_even is None
    assert "never" in costs_in_words(costs)


def test_few_times_tell_nothing():
    routes = work(few_shot=(600, SLOW[:3]), fine_tuned=(50, QUICK[:3]))

    assert training_costs(routes, "fine_tuned", 60, 1.0).break_even is None


def test_a_free_machine_has_paid_at_once():
    routes = {"base": Work(60, SLOW, 0.0), "fine_tuned": Work(50, QUICK, 0.0)}
    costs = training_costs(routes, "fine_tuned", 60, 0.0)

    assert (costs.rival, costs.break_even) == ("base", 0)


def test_without_a_prompt_there_is_nothing_to_compare_with():
    routes = work(classifier=(1, QUICK), fine_tuned=(50, QUICK))

    assert training_costs(routes, "fine_tuned", 60, 0.1) is None
