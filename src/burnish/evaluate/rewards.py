"""Reward functions: the table REWARDS, by `train.objective.reward.kind`."""

import importlib.util
import math
from collections.abc import Callable, Mapping
from typing import Any

from burnish.core.errors import BadRecipe
from burnish.core.progress import say
from burnish.core.reasoning import split_reasoning
from burnish.core.recipe.data import Task
from burnish.core.recipe.rewards import (
    FileReward,
    MetricReward,
    ModelReward,
    MultiReward,
    PythonReward,
    StringCheckReward,
    TextSimilarityReward,
)
from burnish.core.records import Message, Row
from burnish.core.runs import find_run
from burnish.evaluate.grader_formula import BadFormula, compute, names_in
from burnish.evaluate.graders import CHECKS, SIMILARITIES, TemplateError, fill, sample_of
from burnish.evaluate.metrics import METRICS
from burnish.evaluate.sandbox.sandbox import GraderFailed, Sandbox
from burnish.evaluate.tasks import TASKS
from burnish.models.artifact import open_artifact
from burnish.models.heads.reward_model import load_reward_model

#: (row, output) → a finite number; higher is better. Raises BadRecipe.
RewardFn = Callable[[Row, str], float]

#: A Python grader that failed on this many answers, and graded none, is considered broken.
_MAX_FAILURES = 32
#: Exceptions that count as a mistake in an operator's file.
_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip


def reward_function(reward: Any, task: Task) -> RewardFn:
    """Return the function of a recipe's reward. It scores the content without the reasoning, which
    only an operator's own file sees. Raises BadRecipe for an invalid reward."""
    score = REWARDS[reward.kind](reward, task)
    if isinstance(reward, FileReward):
        return score
    return lambda row, output: score(row, split_reasoning(output)[1])


def _metric_reward(reward: MetricReward, task: Task) -> RewardFn:
    name = TASKS[task.kind].metric if reward.metric == "auto" else reward.metric
    score = METRICS[name]

    def reward_fn(row: Row, output: str) -> float:
        if not row.answer:
            raise BadRecipe(
                f"{row.id}: the row has no answer, with which `{name}` would compare.",
                "Give every row an answer, or set another train.objective.reward.",
            )
        return score(row.answer, output)

    return reward_fn


def _string_check_reward(reward: StringCheckReward, task: Task) -> RewardFn:
    return _comparison_reward(reward, CHECKS[reward.operation])


def _text_similarity_reward(reward: TextSimilarityReward, task: Task) -> RewardFn:
    return _comparison_reward(reward, SIMILARITIES[reward.evaluation_metric])


def _comparison_reward(
    reward: StringCheckReward | TextSimilarityReward, score: Callable[[str, str], float | bool]
) -> RewardFn:
    def reward_fn(row: Row, output: str) -> float:
        item = {"answer": row.answer, **row.item}
        try:
            return float(score(*(fill(text, item, output) for text in templates)))
        except TemplateError as error:
            if error.root == "sample":
                return 0.0  # the answer isn't the requested JSON: no reward
            raise BadRecipe(
                f"{row.id}: {error}.", "Give every row that key, or correct the template."
            ) from error

    templates = (reward.input, reward.reference)
    return reward_fn


def _python_reward(reward: PythonReward, task: Task) -> RewardFn:
    """Run the grader in a sandbox for the whole training. An answer that it fails on gets 0."""
    sandbox, graded, failed = Sandbox(reward.source), 0, 0
    try:
        sandbox.load()
    except GraderFailed as error:
        what = f"The python grader doesn't load: {error}"
        raise BadRecipe(what, "Correct its source.") from error

    def reward_fn(row: Row, output: str) -> float:
        nonlocal graded, failed
        try:
            value = sandbox.grade(sample_of(output), {"answer": row.answer, **row.item})
        except GraderFailed as error:
            failed += 1
            if failed == 1:
                say(f"The python grader failed on {row.id}, whose answer gets 0: {error}")
            if not graded and failed >= _MAX_FAILURES:
                raise BadRecipe(
                    f"The python grader failed on each of {failed} answers: {error}",
                    "Correct its source.",
                ) from error
            return 0.0
        graded += 1
        return value

    return reward_fn


def _multi_reward(reward: MultiReward, task: Task) -> RewardFn:
    functions = {name: reward_function(grader, task) for name, grader in reward.graders.items()}
    unknown = _graders_named(reward) - set(functions)
    if unknown:
        raise BadRecipe(
            f"The formula names {', '.join(sorted(unknown))}, which is not one of its graders.",
            "Correct train.objective.reward.calculate_output.",
        )

    def reward_fn(row: Row, output: str) -> float:
        values = {name: grader(row, output) for name, grader in functions.items()}
        try:
            return compute(reward.calculate_output, values)
        except BadFormula as error:
            raise BadRecipe(f"{row.id}: {error}.", "Correct calculate_output.") from error

    return reward_fn


def _graders_named(reward: MultiReward) -> set[str]:
    try:
        return names_in(reward.calculate_output)
    except BadFormula as error:
        fix = "Correct train.objective.reward.calculate_output."
        raise BadRecipe(f"{error}.".capitalize(), fix) from error


def _model_reward(reward: ModelReward, task: Task) -> RewardFn:
    scorer = load_reward_model(open_artifact(find_run(reward.run).artifact))

    def reward_fn(row: Row, output: str) -> float:
        return scorer.score([(*row.prompt, Message("assistant", output))])[0]

    return reward_fn


def _file_reward(reward: FileReward, task: Task) -> RewardFn:
    description = f"`{reward.function}` of {reward.file}"
    if not reward.file.is_file():
        fix = "Correct train.objective.reward.file."
        raise BadRecipe(f"There is no file {reward.file}.", fix)
    spec = importlib.util.spec_from_file_location("burnish_custom_reward", reward.file)
    if spec is None or spec.loader is None:
        raise BadRecipe(f"{reward.file} isn't a Python file.", "Name one that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except _FAULTS as error:
        what = f"{reward.file} doesn't load: {type(error).__name__}: {error}"
        raise BadRecipe(what, "Correct it.") from error
    function = getattr(module, reward.function, None)
    if not callable(function):
        fix = "Correct train.objective.reward.function."
        raise BadRecipe(f"There is no function {description}.", fix)

    def reward_fn(row: Row, output: str) -> float:
        try:
            value = float(function(output, row, **reward.settings))
        except _FAULTS as error:
            raise BadRecipe(
                f"{description} failed on {row.id}: {type(error).__name__}: {error}",
                "Correct it, then start a new run.",
            ) from error
        if not math.isfinite(value):
            raise BadRecipe(
                f"{description} returned {value} on {row.id}.", "Return a finite number."
            )
        return value

    return reward_fn


#: `train.objective.reward.kind` → how it is computed.
REWARDS: Mapping[str, Callable[[Any, Task], RewardFn]] = {
    "metric": _metric_reward,
    "string_check": _string_check_reward,
    "text_similarity": _text_similarity_reward,
    "python": _python_reward,
    "multi": _multi_reward,
    "model": _model_reward,
    "file": _file_reward,
}
