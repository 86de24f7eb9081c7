"""Each rule finds what it is about, and a healthy run has nothing to tell."""

import pytest

from burnish.core.recipe.train import Train
from burnish.train.diagnostics import RULES, diagnose


def run_of(losses, validation=(), seconds=None):
    """Metrics of a run: one loss a step, validations spread evenly over it."""
    every = max(len(losses) // len(validation), 1) if validation else 0
    entries = []
    for step, loss in enumerate(losses, start=1):
        spent = seconds[step - 1] if seconds else 1.0
        entries.append(
            {"step": step, "loss": loss, "learning_rate": 1e-3, "tokens": 100, "seconds": spent}
        )
        if every and step % every == 0:
            entries.append({"step": step, "validation_loss": validation[step // every - 1]})
    return entries


FALLING = [2.0 * 0.93**step + 0.3 for step in range(40)]


def codes(*arguments, **options):
    return [found.code for found in diagnose(run_of(*arguments, **options), Train())]


def test_a_healthy_run_has_nothing_to_tell():
    assert codes(FALLING, [1.6, 1.0, 0.80, 0.79]) == []


@pytest.mark.parametrize(
    ("code", "losses", "options"),
    [
        ("overfitting", FALLING, {"validation": [1.0, 0.8, 1.0, 1.3]}),
        ("no_learning", [2.0, 2.01] * 20, {"validation": [2.0, 2.0, 2.0, 2.0]}),
        ("rate_too_high", [*FALLING[:20], 5.0, *FALLING[20:]], {}),
        ("ended_early", FALLING, {"validation": [1.6, 1.2, 0.9, 0.7]}),
        ("slower", FALLING, {"seconds": [1.0] * 20 + [4.0] * 20}),
    ],
)
def test_each_fault_is_found_alone_with_its_figures(code, losses, options):
    (found,) = diagnose(run_of(losses, **options), Train())

    assert found.code == code
    assert any(character.isdigit() for character in found.message) and found.fix.endswith(".")


def test_a_few_steps_show_nothing():
    assert codes([2.0] * 8) == []


def test_the_loss_of_a_preference_is_not_taken_for_nats():
    flat = run_of([0.5, 0.499] * 20)

    assert [found.code for found in diagnose(flat, Train())] == ["no_learning"]
    assert diagnose(flat, Train.model_validate({"objective": "kto"})) == []


def test_every_rule_is_tested():
    assert len(RULES) == 5


def rewarded(rewards, tokens=None, skipped=0.1, cut=None):
    """Metrics of a run that learns from rewards."""
    tokens, cut = tokens or [9.0] * len(rewards), cut or [0.0] * len(rewards)
    steps = [
        {
            "reward": reward,
            "reward_std": 0.3,
            "answer_tokens": length,
            "skipped": skipped,
            "cut": end,
        }
        for reward, length, end in zip(rewards, tokens, cut, strict=True)
    ]  # fmt: skip
    return [
        {"step": step, "loss": 0.0, "learning_rate": 1e-4, **numbers}
        for step, numbers in enumerate(steps, start=1)
    ]


RISING = [0.2 + 0.02 * step for step in range(24)]


@pytest.mark.parametrize(
    ("expected", "metrics"),
    [
        ([], rewarded(RISING)),
        (["reward_does_not_rise"], rewarded([0.4, 0.38] * 12)),
        (["all_rewards_equal"], rewarded([0.0] * 24, skipped=0.97)),
        (["answers_explode"], rewarded(RISING, [8.0 + 4 * n for n in range(24)],
                                       cut=[n / 30 for n in range(24)])),
    ],
)  # fmt: skip
def test_what_rewards_show_is_told(expected, metrics):
    settings = Train(objective={"kind": "grpo"})

    assert [found.code for found in diagnose(metrics, settings)] == expected
