"""New questions from the ones that are there: the teacher writes more of the kind, then answers.

As in Self-Instruct (Wang et al. 2022, arXiv:2212.10560): a few questions are shown, drawn by seed
and others each time, and a few new ones asked for; those that are near copies are dropped.
"""

import json
import math
import random
from collections.abc import Sequence

from burnish.core.recipe import Recipe
from burnish.core.records import Message, Prompt, Row
from burnish.data.duplicates import near_pairs, question
from burnish.distil.collect import Asking, Collector, Lesson

#: Questions shown in a request, and new ones asked for in it.
_SHOWN, _WANTED = 6, 8
#: Tokens that a new question may take.
_QUESTION = 64
_REQUEST = """Here are questions that people have asked:

{seeds}

Write {count} new ones of the same kind, about other matters and in other words, as unlike each \
other as these are. Write one JSON object a line and nothing else: {{"question": "..."}}"""


def grown(
    collector: Collector, seeds: Sequence[Row], asking: Asking, recipe: Recipe
) -> list[Lesson]:
    """Up to `distil.grow` new rows with the teacher's answers; near copies say that they are.

    Raises TeacherStopped as the collector does.
    """
    wanted, data = recipe.distil.grow, recipe.data
    texts = list(dict.fromkeys(question(row) for row in seeds))
    prompts = []
    for number in range(math.ceil(wanted / _WANTED)):
        draw = random.Random(f"{data.seed}/{number}")
        shown = "\n".join(f"- {text}" for text in draw.sample(texts, min(_SHOWN, len(texts))))
        content = _REQUEST.format(seeds=shown, count=_WANTED)
        prompts.append(Prompt((Message("user", content),), max_new_tokens=_WANTED * _QUESTION))
    found = [text for _, reply in collector.replies(prompts) for text in _questions(reply.text)]
    new = list(dict.fromkeys(found))[:wanted]
    copies = {
        other - len(texts)
        for _, other in near_pairs([*texts, *new], data.near_duplicate)
        if other >= len(texts)
    }
    system = (Message("system", recipe.task.prompt),) if recipe.task.prompt else ()
    rows = [
        Row(messages=(*system, Message("user", text)), file="grown", line=number)
        for number, text in enumerate(new, start=1)
    ]
    kept = [row for place, row in enumerate(rows) if place not in copies]
    dropped = [
        Lesson(rows[place], rows[place], dropped="the question is nearly one that is there")
        for place in sorted(copies)
    ]
    return [*collector.lessons(kept, asking), *dropped]


def _questions(text: str) -> list[str]:
    found = []
    for line in text.splitlines():
        try:
            value = json.loads(line.strip().rstrip(","))
        except (json.JSONDecodeError, RecursionError):
            continue
        said = value.get("question") if isinstance(value, dict) else None
        if isinstance(said, str) and said.strip():
            found.append(said.strip())
    return found
