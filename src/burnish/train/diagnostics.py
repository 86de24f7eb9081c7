"""Diagnoses of a run from its own metrics, each with the setting to change.

Each rule reads the metrics of a whole run (`metrics.jsonl`) and quotes the figures that it found;
most runs have no diagnosis. The rules put common troubleshooting advice into numbers: overfitting,
no learning, a learning rate that is too high, a run that ended too early, a machine that slowed
down.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from burnish.core.recipe.train import Train

Entries = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A problem of a run, with the figures that show it and the setting to change."""

    code: str
    message: str
    fix: str


def diagnose(metrics: Entries, settings: Train) -> list[Diagnosis]:
    """Return the diagnoses of a finished or stopped run."""
    steps = [entry for entry in metrics if "learning_rate" in entry]
    validations = [entry for entry in metrics if "validation_loss" in entry]
    if len(steps) < _MIN_STEPS:
        return []
    rules = RULES_BY_OBJECTIVE.get(settings.objective.kind, LOSS_RULES)
    diagnoses = (rule(steps, validations, settings) for rule in rules)
    return [diagnosis for diagnosis in diagnoses if diagnosis]


#: A run of fewer steps has no diagnosis.
_MIN_STEPS = 12


def _overfitting(steps: Entries, validations: Entries, settings: Train) -> Diagnosis | None:
    losses = [entry["validation_loss"] for entry in validations]
    if len(losses) < 3 or losses[-1] < 1.1 * min(losses):
        return None
    best = validations[losses.index(min(losses))]
    before = _mean(entry["loss"] for entry in steps if entry["step"] <= best["step"])
    after = _mean(entry["loss"] for entry in steps if entry["step"] > best["step"])
    if after >= before:
        return None
    return Diagnosis(
        "overfitting",
        f"Validation loss rose from {min(losses):.3f} (step {best['step']}) to {losses[-1]:.3f} "
        f"while training loss fell from {before:.3f} to {after:.3f}: the model memorizes the rows.",
        f"The weights of step {best['step']} were kept. Collect more rows, or lower train.epochs "
        f"(now {settings.epochs:g}) or the method's rank, or set its dropout to 0.1.",
    )


def _no_learning(steps: Entries, validations: Entries, settings: Train) -> Diagnosis | None:
    first, last = _first_and_last_medians(steps, "loss")
    if last < 0.95 * first or not _is_calm(steps):
        return None
    return Diagnosis(
        "no_learning",
        f"Training loss hardly fell: {first:.3f} at the beginning, {last:.3f} at the end.",
        "Read some rows (`burnish check`): do answers follow from questions? If they do, raise "
        f"train.learning_rate to {10 * settings.learning_rate:.1g}.",
    )


def _rate_too_high(steps: Entries, validations: Entries, settings: Train) -> Diagnosis | None:
    if _is_calm(steps):
        return None
    worst = max(steps[_MIN_STEPS // 2 :], key=lambda entry: entry["loss"])
    return Diagnosis(
        "rate_too_high",
        f"Training loss jumped to {worst['loss']:.3f} at step {worst['step']}, twice what it was "
        "before.",
        f"Set train.learning_rate={settings.learning_rate / 3:.1g}, or raise train.warmup_ratio.",
    )


def _ended_early(steps: Entries, validations: Entries, settings: Train) -> Diagnosis | None:
    losses = [entry["validation_loss"] for entry in validations]
    if len(losses) < 4 or losses[-1] > min(losses) or losses[-1] > 0.97 * losses[-2]:
        return None
    return Diagnosis(
        "ended_early",
        f"Validation loss was still falling at the end ({losses[-2]:.3f}, {losses[-1]:.3f}).",
        f"Raise train.epochs (now {settings.epochs:g}); early stopping ends a run that has enough.",
    )


def _slowing_down(steps: Entries, validations: Entries, settings: Train) -> Diagnosis | None:
    speeds = [{"speed": entry["tokens"] / max(entry["seconds"], 1e-9)} for entry in steps]
    first, last = _first_and_last_medians(speeds[1:], "speed")
    if last > 0.5 * first:
        return None
    return Diagnosis(
        "slower",
        f"The machine became slower: {first:.0f} tokens/s at the beginning, {last:.0f} at the end.",
        "Look for other work on it, for swapping (lower train.micro_batch_tokens) and for heat.",
    )


def _all_rewards_equal(steps: Entries, validations: Entries, settings: Train) -> Diagnosis | None:
    skipped = _mean(entry["skipped"] for entry in steps)
    if skipped < 0.8:
        return None
    return Diagnosis(
        "all_rewards_equal",
        f"In {skipped:.0%} of the groups all answers got the same reward (mean "
        f"{_mean(entry['reward'] for entry in steps):.2f}): there was nothing to learn from.",
        "If the reward is low, train with sft first (train.method.init_from), or reward half-right "
        "answers too; if it is high, take harder questions. Or raise train.objective.temperature.",
    )


def _reward_does_not_rise(
    steps: Entries, validations: Entries, settings: Train
) -> Diagnosis | None:
    first, last = _first_and_last_medians(steps, "reward")
    spread = statistics.median(entry["reward_std"] for entry in steps)
    if last > first + 0.1 * spread or _all_rewards_equal(steps, validations, settings):
        return None
    return Diagnosis(
        "reward_does_not_rise",
        f"The reward didn't rise: {first:.3f} at the beginning, {last:.3f} at the end.",
        "Read the sampled answers (answers.jsonl of the run). If good ones do get more, raise "
        f"train.learning_rate to {3 * settings.learning_rate:.1g}, or train.batch_size.",
    )


def _answers_explode(steps: Entries, validations: Entries, settings: Train) -> Diagnosis | None:
    first, last = _first_and_last_medians(steps, "answer_tokens")
    cut = _first_and_last_medians(steps, "cut")
    if last < 2 * first or cut[1] <= cut[0]:
        return None
    return Diagnosis(
        "answers_explode",
        f"Answers grew from {first:.0f} to {last:.0f} tokens, and {cut[1]:.0%} of them are cut.",
        "Let the reward count length, raise train.objective.beta (now "
        f"{getattr(settings.objective, 'beta', 0):g}), or set train.objective.loss=dr_grpo.",
    )


Rule = Callable[[Entries, Entries, Train], Diagnosis | None]
#: Rules for losses of any kind and scale; for rewards; and for losses in nats.
LOSS_RULES: tuple[Rule, ...] = (_overfitting, _ended_early, _slowing_down)
REWARD_RULES: tuple[Rule, ...] = (_all_rewards_equal, _reward_does_not_rise, _answers_explode)
RULES: tuple[Rule, ...] = (*LOSS_RULES, _no_learning, _rate_too_high)
RULES_BY_OBJECTIVE: dict[str, tuple[Rule, ...]] = {"sft": RULES, "grpo": REWARD_RULES}


def _is_calm(steps: Entries) -> bool:
    """Return True if no loss is twice the median of the ten before it, after the first steps."""
    losses = [entry["loss"] for entry in steps]
    return all(
        losses[step] <= 2 * statistics.median(losses[max(step - 10, 0) : step]) + 0.05
        for step in range(_MIN_STEPS // 2, len(losses))
    )


def _first_and_last_medians(entries: Entries, key: str) -> tuple[float, float]:
    """Return the medians of the first and of the last quarter."""
    quarter = max(len(entries) // 4, 1)
    values = [entry[key] for entry in entries]
    return statistics.median(values[:quarter]), statistics.median(values[-quarter:])


def _mean(values: Any) -> float:
    return statistics.fmean(values)
