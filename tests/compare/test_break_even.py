"""When a training has paid for itself."""

import pytest

from burnish.compare.break_even import costs_in_words, training_costs


def test_shorter_prompts_pay_for_the_training_after_so_many_requests():
    prices = {"base": 0.10, "few_shot": 0.50, "retrieval": 0.30, "fine_tuned": 0.05}
    costs = training_costs(prices, "fine_tuned", training_seconds=1800, price_per_hour=2.0)

    assert costs.training == pytest.approx(1.0)
    assert costs.rival == "retrieval", "the cheapest of the longer prompts"
    # 0.25 saved on a thousand requests: 4,000 of them make 1.
    assert costs.break_even == pytest.approx(4000, abs=1)
    assert "4,000 requests" in costs_in_words(costs) or "4,100 requests" in costs_in_words(costs)


def test_a_dearer_fine_tune_never_pays():
    prices = {"few_shot": 0.05, "fine_tuned": 0.05}
    costs = training_costs(prices, "fine_tuned", training_seconds=60, price_per_hour=1.0)

    assert costs.break_even is None and costs.saved_per_1000 == 0
    assert "never" in costs_in_words(costs)


def test_a_free_machine_has_paid_at_once():
    costs = training_costs({"base": 0.2, "fine_tuned": 0.1}, "fine_tuned", 60, 0.0)

    assert (costs.rival, costs.break_even) == ("base", 0)


def test_without_a_prompt_there_is_nothing_to_compare_with():
    assert training_costs({"classifier": 0.1, "fine_tuned": 0.1}, "fine_tuned", 60, 0.1) is None
