"""Each rule finds what it is about, and a healthy run has nothing to tell."""

import pytest

from burnish.core.training import Train
from burnish.train.diagnosis import RULES, diagnose


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
