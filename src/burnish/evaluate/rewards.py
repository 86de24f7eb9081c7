"""What an answer is worth: the table REWARDS, by `train.objective.reward.kind`."""

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

#: (row, what was said) → a finite number; higher is better. Raises BadRecipe.
RewardFn = Callable[[Row, str], float]

#: So many answers of which a Python grader could grade none are taken for its own mistake.
_MAX_FAILURES = 32
#: What is taken for a mistake in an operator's file.
_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip


def reward_function(reward: Any, task: Task) -> RewardFn:
    """The function that a recipe's reward means: of what was said, not of what was thought before
    it, which only an operator's own file sees. Raises BadRecipe for one that can't be."""
    worth = REWARDS[reward.kind](reward, task)
    if isinstance(reward, FileReward):
        return worth
    return lambda row, said: worth(row, split_reasoning(said)[1])


def _metric_reward(reward: MetricReward, task: Task) -> RewardFn:
    name = TASKS[task.kind].metric if reward.metric == "auto" else reward.metric
    score = METRICS[name]

    def worth(row: Row, said: str) -> float:
        if not row.answer:
            raise BadRecipe(
                f"{row.id}: there is no answer, so `{name}` has nothing to compare with.",
                "Give every row an answer, or set another train.objective.reward.",
            )
        return score(row.answer, said)

    return worth


def _string_check_reward(reward: StringCheckReward, task: Task) -> RewardFn:
    return _comparison_reward(reward, CHECKS[reward.operation])


def _text_similarity_reward(reward: TextSimilarityReward, task: Task) -> RewardFn:
    return _comparison_reward(reward, SIMILARITIES[reward.evaluation_metric])


def _comparison_reward(
    reward: StringCheckReward | TextSimilarityReward, score: Callable[[str, str], float | bool]
) -> RewardFn:
    def worth(row: Row, said: str) -> float:
        item = {"answer": row.answer, **row.item}
        try:
            return float(score(*(fill(text, item, said) for text in templates)))
        except TemplateError as error:
            if error.root == "sample":
                return 0.0  # the answer isn't the JSON that is asked for: learn otherwise
            raise BadRecipe(
                f"{row.id}: {error}.", "Give every row that key, or correct the template."
            ) from error

    templates = (reward.input, reward.reference)
    return worth


def _python_reward(reward: PythonReward, task: Task) -> RewardFn:
    """In a sandbox that lasts as long as the training. An answer that it fails on is worth 0."""
    sandbox, graded, failed = Sandbox(reward.source), 0, 0
    try:
        sandbox.load()
    except GraderFailed as error:
        said = f"The python grader doesn't load: {error}"
        raise BadRecipe(said, "Correct its source.") from error

    def worth(row: Row, said: str) -> float:
        nonlocal graded, failed
        try:
            found = sandbox.grade(sample_of(said), {"answer": row.answer, **row.item})
        except GraderFailed as error:
            failed += 1
            if failed == 1:
                say(f"The python grader failed on {row.id}, whose answer is worth 0: {error}")
            if not graded and failed >= _MAX_FAILURES:
                raise BadRecipe(
                    f"The python grader failed on each of {failed} answers: {error}",
                    "Correct its source.",
                ) from error
            return 0.0
        graded += 1
        return found

    return worth


def _multi_reward(reward: MultiReward, task: Task) -> RewardFn:
    inner = {name: reward_function(one, task) for name, one in reward.graders.items()}
    unknown = _graders_named(reward) - set(inner)
    if unknown:
        raise BadRecipe(
            f"The formula names {', '.join(sorted(unknown))}, which is no grader of it.",
            "Correct train.objective.reward.calculate_output.",
        )

    def worth(row: Row, said: str) -> float:
        values = {name: one(row, said) for name, one in inner.items()}
        try:
            return compute(reward.calculate_output, values)
        except BadFormula as error:
            raise BadRecipe(f"{row.id}: {error}.", "Correct calculate_output.") from error

    return worth


def _graders_named(reward: MultiReward) -> set[str]:
    try:
        return names_in(reward.calculate_output)
    except BadFormula as error:
        fix = "Correct train.objective.reward.calculate_output."
        raise BadRecipe(f"{error}.".capitalize(), fix) from error


def _model_reward(reward: ModelReward, task: Task) -> RewardFn:
    found = load_reward_model(open_artifact(find_run(reward.run).artifact))

    def worth(row: Row, said: str) -> float:
        return found.score([(*row.prompt, Message("assistant", said))])[0]

    return worth


def _file_reward(reward: FileReward, task: Task) -> RewardFn:
    named = f"`{reward.function}` of {reward.file}"
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
        said = f"{reward.file} doesn't load: {type(error).__name__}: {error}"
        raise BadRecipe(said, "Correct it.") from error
    function = getattr(module, reward.function, None)
    if not callable(function):
        fix = "Correct train.objective.reward.function."
        raise BadRecipe(f"There is no function {named}.", fix)

    def worth(row: Row, said: str) -> float:
        try:
            found = float(function(said, row, **reward.settings))
        except _FAULTS as error:
            raise BadRecipe(
                f"{named} failed on {row.id}: {type(error).__name__}: {error}",
                "Correct it, then start a new run.",
            ) from error
        if not math.isfinite(found):
            raise BadRecipe(f"{named} gave {found} on {row.id}.", "Return a finite number.")
        return found

    return worth


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
