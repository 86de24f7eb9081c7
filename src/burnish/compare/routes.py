"""The routes a team could take: each is an engine and the prompts to ask it with.

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
from burnish.engines.local import LocalEngine
from burnish.evaluate.tasks import answer_length, as_prompt, with_examples, with_form


@dataclass(frozen=True, slots=True)
class Setting:
    """What all routes are asked: the data, the recipe, and the test rows in use."""

    recipe: Recipe
    dataset: Dataset
    rows: Sequence[Row]

    @property
    def plain(self) -> list[Prompt]:
        """The test questions as the recipe puts them."""
        length = answer_length(self.dataset.split.train, self.recipe.evaluate)
        return [as_prompt(row, self.dataset.task, length) for row in self.rows]


Ask = Callable[[Setting, LocalEngine], list[Prompt]]


def base_prompts(setting: Setting, engine: LocalEngine) -> list[Prompt]:
    """The recipe's prompt; where answers have a form, the prompt says which."""
    return [with_form(p, setting.dataset.task, setting.dataset.split.train) for p in setting.plain]


def few_shot_prompts(setting: Setting, engine: LocalEngine) -> list[Prompt]:
    """The base prompt behind examples from the training rows, as many as fit the context."""
    prompts = base_prompts(setting, engine)
    wanted = setting.recipe.compare.shots
    examples = choose_examples(setting.dataset.split.train, wanted, setting.recipe.data.seed)
    longest = max(prompts, key=lambda prompt: engine.count_tokens(prompt.messages))
    while examples:
        tokens = engine.count_tokens(with_examples(longest, examples).messages)
        if tokens + longest.max_new_tokens <= engine.context_length:
            break
        examples = examples[:-1]
    if len(examples) < wanted:
        say(f"few_shot: {len(examples)} of {wanted} examples fit the context.")
    return [with_examples(prompt, examples) for prompt in prompts]


def fine_tuned_prompts(setting: Setting, engine: LocalEngine) -> list[Prompt]:
    """The prompt that was trained: no list of labels, no examples."""
    return setting.plain


#: `compare.routes` → how its prompts are made. `fine_tuned` is asked on the trained model.
ROUTES: dict[str, Ask] = {
    "base": base_prompts,
    "few_shot": few_shot_prompts,
    "fine_tuned": fine_tuned_prompts,
}


def choose_examples(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """`count` rows, drawn by seed; different labels first where rows have labels."""
    order = list(rows)
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
