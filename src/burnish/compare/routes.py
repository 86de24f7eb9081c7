"""The routes a team could take: each is a model and the prompts to ask it with.

The table ROUTES is the only list. A route gets the fair chance that a competent person would give
it: a base model that must choose among labels is told the labels.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from burnish.core.progress import say
from burnish.core.recipe import Recipe
from burnish.core.records import Prompt, Row
from burnish.data.load import Dataset
from burnish.engines.protocol import Engine
from burnish.evaluate.tasks import (
    TASKS,
    answer_length,
    as_prompt,
    with_examples,
    with_instruction,
)

#: Examples that are too long for the context are passed over; this many times `shots` are tried.
_TRIED = 4


@dataclass(frozen=True, slots=True)
class Setting:
    """What all routes are asked: the data, the recipe, and the test rows in use."""

    recipe: Recipe
    dataset: Dataset
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Route:
    """How a route's prompts are made, and whether they go to the trained model or to the base."""

    prompts: Callable[[Setting, Engine], list[Prompt]]
    trained: bool = False


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


#: `compare.routes` → the route.
ROUTES: dict[str, Route] = {
    "base": Route(base_prompts),
    "few_shot": Route(few_shot_prompts),
    "fine_tuned": Route(plain_prompts, trained=True),
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
