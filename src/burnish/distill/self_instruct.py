"""New questions from the ones that are there: the teacher writes them, then answers.

More of the kind, as in Self-Instruct (Wang et al. 2022, arXiv:2212.10560): a few questions are
shown, drawn by seed and others each time, and a few new ones asked for. Or harder ones, as in
Evol-Instruct (Xu et al. 2023, arXiv:2304.12244): each is rewritten in one of six ways, drawn by
seed, and what came of it once more. Those that are near copies are dropped.
"""

import json
import math
import random
from collections.abc import Sequence

from burnish.core.recipe.recipe import Recipe
from burnish.core.records import Message, Prompt, Row
from burnish.data.duplicates import find_near_pairs, question_text
from burnish.distill.teacher_answers import AnswerCollector, QuestionFormat, TeacherExample

#: Questions shown in a request, and new ones asked for in it.
_SHOWN, _WANTED = 6, 8
#: Tokens that a new question may take.
_QUESTION = 64
_REQUEST = """Here are questions that people have asked:

{seeds}

Write {count} new ones of the same kind, about other matters and in other words, as unlike each \
other as these are. Write one JSON object a line and nothing else: {{"question": "..."}}"""
#: The paper's five ways in depth and its one in breadth.
_WAYS = (
    "Add one more requirement or condition to it.",
    "Ask for more depth and detail of the same matter.",
    "Replace its general ideas by more specific ones.",
    "Make it need more than one step of reasoning.",
    "Put in the data that such a question may come with: numbers, a table, a message.",
    "Write a rarer question of the same field, of like length and difficulty, instead.",
)
_EVOLVE = """Here is a question that somebody has asked:

{question}

Rewrite it. {way} A person must still be able to understand and to answer it, and it may be longer \
by 20 words at the most. Write one JSON object and nothing else: {{"question": "..."}}"""


def self_instruct(
    collector: AnswerCollector, seeds: Sequence[Row], asking: QuestionFormat, recipe: Recipe
) -> list[TeacherExample]:
    """Return up to `distill.self_instruct` new rows with the teacher's answers, near copies marked.

    Raises TeacherStopped as the collector does.
    """
    wanted, data = recipe.distill.self_instruct, recipe.data
    texts = _texts(seeds)
    prompts = []
    for number in range(math.ceil(wanted / _WANTED)):
        draw = random.Random(f"{data.seed}/{number}")
        shown = "\n".join(f"- {text}" for text in draw.sample(texts, min(_SHOWN, len(texts))))
        content = _REQUEST.format(seeds=shown, count=_WANTED)
        prompts.append(Prompt((Message("user", content),), max_new_tokens=_WANTED * _QUESTION))
    found = [text for _, reply in collector.ask(prompts) for text in _parse_questions(reply.text)]
    kept, dropped = _split_near_copies(texts, list(dict.fromkeys(found))[:wanted], "grown", recipe)
    return [*collector.collect(kept, asking), *dropped]


def evol_instruct(
    collector: AnswerCollector, seeds: Sequence[Row], asking: QuestionFormat, recipe: Recipe
) -> list[TeacherExample]:
    """Return up to `distill.evol_instruct` harder rows with the teacher's answers.

    Near copies are marked. Each question becomes one harder one; if more are wanted than there are
    questions, the harder ones are rewritten in turn. Raises TeacherStopped as the collector does.
    """
    texts = _texts(seeds)
    due = random.Random(recipe.data.seed).sample(texts, len(texts))
    new: list[str] = []
    while due and len(new) < recipe.distill.evol_instruct:
        due = _rewrite_harder(
            collector, due[: recipe.distill.evol_instruct - len(new)], len(new), recipe
        )
        new += due
    kept, dropped = _split_near_copies(texts, list(dict.fromkeys(new)), "evolved", recipe)
    return [*collector.collect(kept, asking), *dropped]


def _rewrite_harder(
    collector: AnswerCollector, texts: Sequence[str], done: int, recipe: Recipe
) -> list[str]:
    """What the teacher makes of these questions; one that it doesn't rewrite is left out."""
    prompts = []
    for number, text in enumerate(texts, start=done):
        way = random.Random(f"{recipe.data.seed}/{number}").choice(_WAYS)
        content = _EVOLVE.format(question=text, way=way)
        prompts.append(Prompt((Message("user", content),), max_new_tokens=2 * _QUESTION))
    found = [_parse_questions(_strip_to_object(reply.text)) for _, reply in collector.ask(prompts)]
    return [questions[0] for questions in found if questions]


def _texts(seeds: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(question_text(row) for row in seeds))


def _split_near_copies(
    texts: Sequence[str], new: Sequence[str], file: str, recipe: Recipe
) -> tuple[list[Row], list[TeacherExample]]:
    """New questions as rows of `file`, and those that are near copies of `texts` or each other."""
    copies = {
        other - len(texts)
        for _, other in find_near_pairs([*texts, *new], recipe.data.near_duplicate)
        if other >= len(texts)
    }
    system = (Message("system", recipe.task.prompt),) if recipe.task.prompt else ()
    rows = [
        Row(messages=(*system, Message("user", text)), file=file, line=number)
        for number, text in enumerate(new, start=1)
    ]
    kept = [row for place, row in enumerate(rows) if place not in copies]
    dropped = [
        TeacherExample(rows[place], rows[place], dropped="the question is nearly one that is there")
        for place in sorted(copies)
    ]
    return kept, dropped


def _strip_to_object(text: str) -> str:
    """The only JSON object of a reply on one line, without fences or words around it."""
    return " ".join(text[text.find("{") : text.rfind("}") + 1].splitlines())


def _parse_questions(text: str) -> list[str]:
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
