"""The routes a team could take: each is a model and the prompts to ask it with.

The table ROUTES is the only list. A route gets the fair chance that a competent person would give
it: a base model that must choose among labels is told the labels.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from burnish.compare.retrieval import Documents, prompts_with_passages, rows_with_passages
from burnish.core.progress import say
from burnish.core.recipe import Recipe
from burnish.core.records import Prompt, Row, Split
from burnish.data.load import Dataset
from burnish.engines.protocol import Engine
from burnish.evaluate.tasks import (
    TASKS,
    answer_length,
    as_prompt,
    with_examples,
    with_instruction,
)
from burnish.models.chat import encode_row
from burnish.models.load import load_tokenizer
from burnish.models.local import find_model

#: Examples that are too long for the context are passed over; this many times `shots` are tried.
_TRIED = 4


@dataclass(frozen=True, slots=True)
class Setting:
    """What all routes are asked: the data, the recipe, and the test rows in use.

    `documents` are there if a route reads them.
    """

    recipe: Recipe
    dataset: Dataset
    rows: Sequence[Row]
    documents: Documents | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """How a route's prompts are made, and from which rows its model is trained: none for the base.

    `reads` if it needs the recipe's documents.
    """

    prompts: Callable[[Setting, Engine], list[Prompt]]
    learns: Callable[[Setting], Split] | None = None
    reads: bool = False


def plain_prompts(setting: Setting, engine: Engine) -> list[Prompt]:
    """The test questions as the recipe puts them and as they were trained: no list of labels."""
    train, settings = setting.dataset.split.train, setting.recipe.evaluate
    length = answer_length(train, settings, engine.count_tokens)
    return [as_prompt(row, setting.dataset.task, length) for row in setting.rows]


def base_prompts(setting: Setting, engine: Engine) -> list[Prompt]:
    """The recipe's prompt; where answers have a form, the prompt says which."""
    task = setting.dataset.task
    told = TASKS[task.kind].instruction(task, setting.dataset.split.train)
    return [with_instruction(prompt, told) for prompt in plain_prompts(setting, engine)]


def few_shot_prompts(setting: Setting, engine: Engine) -> list[Prompt]:
    """The base prompt behind examples from the training rows, as many as fit the context."""
    prompts = base_prompts(setting, engine)
    wanted = setting.recipe.compare.shots
    ranked = choose_examples(setting.dataset.split.train, _TRIED * wanted, setting.recipe.data.seed)
    longest = max(prompts, key=lambda prompt: engine.count_tokens(prompt.messages))
    examples: list[Row] = []
    for row in ranked:
        shown = with_examples(longest, [*examples, row])
        size = engine.count_tokens(shown.messages) + longest.max_new_tokens
        if len(examples) < wanted and size <= engine.context_length:
            examples.append(row)
    more = engine.count_tokens(with_examples(longest, examples).messages) - engine.count_tokens(
        longest.messages
    )
    say(f"few_shot: {len(examples)} of {wanted} examples; they cost {more} tokens a question.")
    return [with_examples(prompt, examples) for prompt in prompts]


def retrieval_prompts(setting: Setting, engine: Engine) -> list[Prompt]:
    """The base prompt with the passages found for its question, as many as fit the context."""
    prompts, room = base_prompts(setting, engine), engine.context_length
    return prompts_with_passages(
        _documents(setting), prompts, engine.count_tokens, room, "retrieval"
    )


def trained_retrieval_prompts(setting: Setting, engine: Engine) -> list[Prompt]:
    """The plain prompt with passages, as it was trained: no longer than training rows may be."""
    room = min(engine.context_length, setting.recipe.train.max_length)
    return prompts_with_passages(
        _documents(setting),
        plain_prompts(setting, engine),
        engine.count_tokens,
        room,
        "retrieval_fine_tuned",
    )


def plain_rows(setting: Setting) -> Split:
    """The rows as they are."""
    return setting.dataset.split


def retrieval_rows(setting: Setting) -> Split:
    """The rows with the passages found for their questions; some training rows without those that
    hold the answer."""
    documents, split, recipe = _documents(setting), setting.dataset.split, setting.recipe
    tokenizer = load_tokenizer(find_model(recipe.model.name))
    room, seed = recipe.train.max_length, recipe.train.seed

    def size(row: Row) -> int:
        return len(encode_row(tokenizer, row, room + 1).ids)

    def shown(rows: Sequence[Row], gold_share: float) -> tuple[Row, ...]:
        return rows_with_passages(documents, rows, size, room, gold_share, seed)

    # Validation sees what the test will see: passages as they are found.
    return replace(
        split,
        train=shown(split.train, recipe.rag.gold_share),
        validation=shown(split.validation, 1.0),
    )


def _documents(setting: Setting) -> Documents:
    if setting.documents is None:
        raise ValueError("a route that reads was made without documents")
    return setting.documents


#: `compare.routes` → the route.
ROUTES: dict[str, Route] = {
    "base": Route(base_prompts),
    "few_shot": Route(few_shot_prompts),
    "retrieval": Route(retrieval_prompts, reads=True),
    "fine_tuned": Route(plain_prompts, learns=plain_rows),
    "retrieval_fine_tuned": Route(trained_retrieval_prompts, learns=retrieval_rows, reads=True),
}


def choose_examples(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """`count` rows, drawn by seed; where rows have labels, each label once before any twice.

    Answers that are marked as undesirable are no examples.
    """
    order = [row for row in rows if row.desirable is not False]
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
