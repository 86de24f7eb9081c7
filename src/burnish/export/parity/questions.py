"""The questions for the trained and the exported model, and the trained model's answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from burnish.core.errors import BadRecipe
from burnish.core.progress import progress
from burnish.core.recipe.data import Task
from burnish.core.recipe.recipe import Recipe
from burnish.core.records import Prompt, Row
from burnish.data.load import load
from burnish.data.split import sample_rows
from burnish.engines.local.engine import LocalEngine
from burnish.evaluate.tasks import (
    TASKS,
    answer_length,
    as_prompt,
    deciding_metric,
    refuse_unanswerable,
)
from burnish.export.parity.clients import ServedAnswer, without_choices
from burnish.models.artifact import Artifact
from burnish.models.chat_template import encode_prompt


@dataclass(frozen=True, slots=True)
class GateQuestions:
    """The questions: rows, their prompts, and how answers are scored."""

    rows: Sequence[Row]
    prompts: Sequence[Prompt]
    task: Task
    metric: str

    @property
    def has_labels(self) -> bool:
        """Whether answers are labels."""
        return TASKS[self.task.kind].constrained

    @property
    def has_choices(self) -> bool:
        """Whether answers are also constrained to the labels; not for a model that reasons
        first."""
        return any(prompt.choices for prompt in self.prompts)


@dataclass(frozen=True, slots=True)
class TrainedAnswers:
    """The trained model's answers: free ones, and those constrained to the labels (empty
    without)."""

    tokenizer: PreTrainedTokenizerBase
    free: Sequence[ServedAnswer]
    constrained: Sequence[ServedAnswer]


def make_questions(recipe: Recipe, artifact: Artifact) -> GateQuestions:
    """Return the gate's questions: the recipe's test split, in the prompts of the model's training.

    Raises BadRecipe if the recipe names no data, BadData if there are no test rows.
    """
    if not (recipe.data.train or recipe.data.test):
        raise BadRecipe("The run's recipe names no data, so the gate has nothing to ask.")
    dataset = load(recipe)
    rows = sample_rows(dataset.split.test, recipe.export.rows, recipe.evaluate.seed)
    refuse_unanswerable(rows)
    tokenizer = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
    longest = answer_length(
        dataset.split.train or rows,
        recipe.evaluate,
        lambda messages: len(encode_prompt(tokenizer, messages)),
    )
    prompts = [as_prompt(row, dataset.task, longest, artifact.reasoning_tokens) for row in rows]
    return GateQuestions(
        rows, prompts, dataset.task, deciding_metric(dataset.task, recipe.evaluate)
    )


def ask_trained(engine: LocalEngine, questions: GateQuestions) -> TrainedAnswers:
    """Return the trained model's answers."""
    constrained = _answer_prompts(engine, questions.prompts) if questions.has_choices else []
    return TrainedAnswers(
        engine.tokenizer, _answer_prompts(engine, without_choices(questions.prompts)), constrained
    )


def _answer_prompts(engine: LocalEngine, prompts: Sequence[Prompt]) -> list[ServedAnswer]:
    with progress("Asking the trained model", total=len(prompts)) as bar:
        answers = engine.answer(prompts, advance=bar.advance)
    return [
        ServedAnswer(a.text, a.finish_reason == "stop", a.tokens_in, a.tokens_out, a.seconds)
        for a in answers
    ]
