"""The routes to compare: each is a model and the prompts to ask it with.

The table ROUTES is the only list. A route gets the fair chance that a competent person would give
it: a base model that must choose among labels is told the labels.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from transformers import PreTrainedTokenizerBase

from burnish.compare.classifier import train_classifier
from burnish.compare.encoder import train_encoder
from burnish.compare.retrieval import IndexedDocuments, prompts_with_passages, rows_with_passages
from burnish.compare.teacher_ceiling import CEILING
from burnish.core.errors import BadRecipe, NotFound
from burnish.core.progress import say
from burnish.core.recipe.data import Task
from burnish.core.recipe.recipe import Recipe
from burnish.core.recipe.support import goes_together
from burnish.core.records import Prompt, Row, Split, images_of
from burnish.core.runs import Run
from burnish.data.load import Dataset
from burnish.engines.heads.base import user_text
from burnish.engines.protocol import Engine
from burnish.evaluate.judge_calibration import CalibratedJudge
from burnish.evaluate.tasks import (
    TASKS,
    answer_length,
    as_prompt,
    reasoning_length,
    with_examples,
    with_instruction,
)
from burnish.models.chat_template import encode_row, split_as_served
from burnish.models.find_artifact import find_artifact
from burnish.models.heads.embedder import Embedder
from burnish.models.load import load_tokenizer
from burnish.models.local_models import Resolved, find_model
from burnish.train.cached_run import train_cached

#: Examples that don't fit the context are skipped; this many times `shots` are tried.
_TRIED = 4


@dataclass(frozen=True, slots=True)
class ComparisonSetup:
    """What all routes share: the recipe, the data, and the test rows in use.

    `documents` are set if a route retrieves from them, `judge` if a model grades the answers.
    """

    recipe: Recipe
    dataset: Dataset
    rows: Sequence[Row]
    documents: IndexedDocuments | None = None
    judge: CalibratedJudge | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer."""
        return load_tokenizer(Resolved.of(self.recipe).base)


@dataclass(frozen=True, slots=True)
class Route:
    """How a route's prompts are made, and from which rows its model is trained: None for the base.

    `train` returns the run with the model; `reads_documents` if it needs the recipe's documents.
    """

    make_prompts: Callable[[ComparisonSetup, Engine], list[Prompt]]
    training_rows: Callable[[ComparisonSetup], Split] | None = None
    train: Callable[[Recipe, Dataset], Run] = train_cached
    reads_documents: bool = False


def plain_prompts(setting: ComparisonSetup, engine: Engine) -> list[Prompt]:
    """Return the test questions as in training: no list of labels, and with room for reasoning if
    the rows have it."""
    return _task_prompts(
        setting, engine, reasoning_length(setting.dataset.split.train, engine.count_tokens)
    )


def _task_prompts(
    setting: ComparisonSetup, engine: Engine, reasoning_tokens: int = 0
) -> list[Prompt]:
    train, settings = setting.dataset.split.train, setting.recipe.evaluate
    length = answer_length(train, settings, engine.count_tokens)
    return [as_prompt(row, setting.dataset.task, length, reasoning_tokens) for row in setting.rows]


def base_prompts(setting: ComparisonSetup, engine: Engine) -> list[Prompt]:
    """Return the recipe's prompt, with an instruction where answers have a form."""
    task = setting.dataset.task
    instruction = TASKS[task.kind].instruction(task, setting.dataset.split.train)
    return [with_instruction(prompt, instruction) for prompt in _task_prompts(setting, engine)]


def few_shot_prompts(setting: ComparisonSetup, engine: Engine) -> list[Prompt]:
    """Return the base prompt behind examples from the training rows, as many as fit the context."""
    prompts, recipe = base_prompts(setting, engine), setting.recipe
    train, candidates = setting.dataset.split.train, _TRIED * recipe.compare.shots
    if recipe.compare.examples == "similar":
        ranked = similar_examples(train, setting.rows, candidates, recipe.rag.embedder)
        # The nearest example comes last: text next to the question weighs most.
        fitting = [
            _examples_that_fit(prompt, examples, recipe.compare.shots, engine)[::-1]
            for prompt, examples in zip(prompts, ranked, strict=True)
        ]
    else:
        longest = max(prompts, key=lambda prompt: engine.count_tokens(prompt.messages))
        drawn = choose_examples(train, candidates, recipe.data.seed)
        fitting = [_examples_that_fit(longest, drawn, recipe.compare.shots, engine)] * len(prompts)
    shown = [
        with_examples(prompt, examples) for prompt, examples in zip(prompts, fitting, strict=True)
    ]
    extra_tokens = mean(
        engine.count_tokens(after.messages) - engine.count_tokens(before.messages)
        for before, after in zip(prompts, shown, strict=True)
    )
    example_count = mean(map(len, fitting))
    say(
        f"few_shot: {example_count:.3g} of {recipe.compare.shots} examples; they cost "
        f"{extra_tokens:.0f} tokens per question."
    )
    return shown


def _examples_that_fit(
    prompt: Prompt, ranked: Sequence[Row], wanted: int, engine: Engine
) -> list[Row]:
    """Return the first `wanted` rows with which the prompt and its answer fit the context."""
    examples: list[Row] = []
    for row in ranked:
        shown = with_examples(prompt, [*examples, row])
        size = engine.count_tokens(shown.messages) + prompt.max_new_tokens
        if len(examples) < wanted and size <= engine.context_length:
            examples.append(row)
    return examples


def retrieval_prompts(setting: ComparisonSetup, engine: Engine) -> list[Prompt]:
    """Return the base prompt with the passages retrieved for its question, as many as fit the
    context."""
    prompts, room = base_prompts(setting, engine), engine.context_length
    return prompts_with_passages(
        _require_documents(setting), prompts, engine.count_tokens, room, "retrieval"
    )


def trained_retrieval_prompts(setting: ComparisonSetup, engine: Engine) -> list[Prompt]:
    """Return the plain prompt with passages, as in training: no longer than training rows may
    be."""
    room = min(engine.context_length, setting.recipe.train.max_length)
    return prompts_with_passages(
        _require_documents(setting),
        plain_prompts(setting, engine),
        engine.count_tokens,
        room,
        "retrieval_fine_tuned",
    )


def plain_rows(setting: ComparisonSetup) -> Split:
    """Return the rows unchanged."""
    return setting.dataset.split


def retrieval_rows(setting: ComparisonSetup) -> Split:
    """Return the rows with the passages retrieved for their questions; some training rows without
    those that contain the answer."""
    documents, split, recipe = _require_documents(setting), setting.dataset.split, setting.recipe
    tokenizer = setting.tokenizer
    room, seed = recipe.train.max_length, recipe.train.seed

    def size(row: Row) -> int:
        parts = split_as_served(tokenizer, row)
        return max(len(encode_row(tokenizer, part, room + 1).ids) for part in parts)

    def with_retrieved(rows: Sequence[Row], gold_share: float) -> tuple[Row, ...]:
        return rows_with_passages(documents, rows, size, room, gold_share, seed)

    # Validation rows look like test rows: passages as retrieved.
    return replace(
        split,
        train=with_retrieved(split.train, recipe.rag.gold_share),
        validation=with_retrieved(split.validation, 1.0),
    )


def _require_documents(setting: ComparisonSetup) -> IndexedDocuments:
    if setting.documents is None:
        raise ValueError("a route that reads was made without documents")
    return setting.documents


def teacher_prompts(setting: ComparisonSetup, engine: Engine) -> list[Prompt]:
    """Return the base prompt; the plain one for a teacher that was trained on such rows."""
    source = setting.recipe.distill.teacher
    is_trained = not source.endpoint and find_artifact(source.model) is not None
    return (plain_prompts if is_trained else base_prompts)(setting, engine)


#: `compare.routes` → the route.
ROUTES: dict[str, Route] = {
    "base": Route(base_prompts),
    "few_shot": Route(few_shot_prompts),
    "retrieval": Route(retrieval_prompts, reads_documents=True),
    "classifier": Route(plain_prompts, training_rows=plain_rows, train=train_classifier),
    "encoder": Route(plain_prompts, training_rows=plain_rows, train=train_encoder),
    "fine_tuned": Route(plain_prompts, training_rows=plain_rows),
    "retrieval_fine_tuned": Route(
        trained_retrieval_prompts, training_rows=retrieval_rows, reads_documents=True
    ),
    CEILING: Route(teacher_prompts),
}


def similar_examples(
    rows: Sequence[Row], questions: Sequence[Row], count: int, embedder: str
) -> list[list[Row]]:
    """Return for each question the `count` rows with the nearest questions, nearest first (Liu et
    al. 2022, arXiv:2101.06804).

    Raises NotFound without the embedding model.
    """
    usable = [row for row in rows if row.answer]
    model = Embedder(find_model(embedder))
    row_vectors, question_vectors = (
        model.encode([user_text(row.prompt) for row in part]) for part in (usable, questions)
    )
    nearest = (-(question_vectors @ row_vectors.T)).argsort(1, kind="stable")[:, :count]
    return [[usable[index] for index in indices] for indices in nearest]


def with_routes(recipe: Recipe, task: Task, kind: str) -> Recipe:
    """Return the recipe with the default routes of its task and kind of model, if it names none."""
    if recipe.compare.routes:
        return recipe
    names = ["base", "few_shot", "fine_tuned"]
    objective = recipe.train.objective.kind
    names = [name for name in names if goes_together("route", name, "objective", objective)]
    if task.kind == "classification" and kind != "vision":
        try:
            find_model(recipe.rag.embedder)
            names.insert(-1, "classifier")
        except NotFound:
            say(
                "Not measured: a linear classifier on embeddings, often the better choice for "
                f"labels. It needs: burnish pull {recipe.rag.embedder}"
            )
    return recipe.model_copy(
        update={"compare": recipe.compare.model_copy(update={"routes": tuple(names)})}
    )


def refuse_text_only_routes(routes: Sequence[str], rows: Sequence[Row]) -> None:
    """Raise BadRecipe for routes that ignore images, if the rows have some."""
    text_only = [name for name in routes if not goes_together("route", name, "flag", "images")]
    if text_only and any(images_of(row.prompt) for row in rows):
        raise BadRecipe(
            f"The questions have images, which {', '.join(text_only)} would ignore.",
            "Leave them out of compare.routes: base, few_shot and fine_tuned use images.",
        )


def choose_examples(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """Return `count` rows, drawn by seed; if rows have labels, each label once before any twice.

    Plain text, and answers marked as undesirable, are excluded.
    """
    order = [row for row in rows if row.answer]
    random.Random(seed).shuffle(order)
    by_label: dict[str | None, list[Row]] = defaultdict(list)
    for row in order:
        by_label[row.label].append(row)
    chosen: list[Row] = []
    while len(chosen) < min(count, len(order)):
        for waiting in by_label.values():
            if waiting and len(chosen) < count:
                chosen.append(waiting.pop(0))
    return chosen
