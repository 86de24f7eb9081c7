"""New questions from existing ones: the teacher writes them, then answers.

More of the kind, as in Self-Instruct (Wang et al. 2022, arXiv:2212.10560): each request shows a few
questions, drawn by seed, and asks for a few new ones. Or harder ones, as in Evol-Instruct (Xu et
al. 2023, arXiv:2304.12244): each is rewritten in one of six ways, drawn by seed, and the result
once more. Near copies are dropped.
"""

import json
import math
import random
from collections.abc import Sequence

from burnish.core.recipe.recipe import Recipe
from burnish.core.records import Message, Prompt, Row
from burnish.data.duplicates import find_near_pairs, question_text
from burnish.distill.teacher_answers import AnswerCollector, QuestionFormat, TeacherExample

#: Number of questions shown, and of new ones requested, per request.
_SHOWN, _WANTED = 6, 8
#: Token limit of a new question.
_QUESTION = 64
_REQUEST = """Here are questions that people have asked:

{seeds}

Write {count} new ones of the same kind, about other matters and in other words, as unlike each \
other as these are. Write one JSON object a line and nothing else: {{"question": "..."}}"""
#: The paper's five in-depth operations and its in-breadth one.
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
    collector: AnswerCollector,
    seeds: Sequence[Row],
    question_format: QuestionFormat,
    recipe: Recipe,
) -> list[TeacherExample]:
    """Return up to `distill.self_instruct` new rows with the teacher's answers, near copies marked.

    Raises TeacherStopped as the collector does.
    """
    count, data = recipe.distill.self_instruct, recipe.data
    texts = _texts(seeds)
    prompts = []
    for number in range(math.ceil(count / _WANTED)):
        generator = random.Random(f"{data.seed}/{number}")
        shown_questions = "\n".join(
            f"- {text}" for text in generator.sample(texts, min(_SHOWN, len(texts)))
        )
        content = _REQUEST.format(seeds=shown_questions, count=_WANTED)
        prompts.append(Prompt((Message("user", content),), max_new_tokens=_WANTED * _QUESTION))
    questions = [
        text for _, reply in collector.ask(prompts) for text in _parse_questions(reply.text)
    ]
    kept, dropped = _split_near_copies(
        texts, list(dict.fromkeys(questions))[:count], "grown", recipe
    )
    return [*collector.collect(kept, question_format), *dropped]


def evol_instruct(
    collector: AnswerCollector,
    seeds: Sequence[Row],
    question_format: QuestionFormat,
    recipe: Recipe,
) -> list[TeacherExample]:
    """Return up to `distill.evol_instruct` harder rows with the teacher's answers.

    Near copies are marked. Each question becomes one harder one; if more are wanted than there are
    questions, the harder ones are rewritten in turn. Raises TeacherStopped as the collector does.
    """
    texts = _texts(seeds)
    current = random.Random(recipe.data.seed).sample(texts, len(texts))
    new: list[str] = []
    while current and len(new) < recipe.distill.evol_instruct:
        current = _rewrite_harder(
            collector, current[: recipe.distill.evol_instruct - len(new)], len(new), recipe
        )
        new += current
    kept, dropped = _split_near_copies(texts, list(dict.fromkeys(new)), "evolved", recipe)
    return [*collector.collect(kept, question_format), *dropped]


def _rewrite_harder(
    collector: AnswerCollector, texts: Sequence[str], done: int, recipe: Recipe
) -> list[str]:
    """Return the teacher's rewritten questions; one that it doesn't rewrite is left out."""
    prompts = []
    for number, text in enumerate(texts, start=done):
        operation = random.Random(f"{recipe.data.seed}/{number}").choice(_WAYS)
        content = _EVOLVE.format(question=text, way=operation)
        prompts.append(Prompt((Message("user", content),), max_new_tokens=2 * _QUESTION))
    rewritten = [
        _parse_questions(_strip_to_object(reply.text)) for _, reply in collector.ask(prompts)
    ]
    return [questions[0] for questions in rewritten if questions]


def _texts(seeds: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(question_text(row) for row in seeds))


def _split_near_copies(
    texts: Sequence[str], new: Sequence[str], file: str, recipe: Recipe
) -> tuple[list[Row], list[TeacherExample]]:
    """Return new questions as rows of `file`, and near copies of `texts` or each other as dropped
    ones."""
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
    kept = [row for index, row in enumerate(rows) if index not in copies]
    dropped = [
        TeacherExample(
            rows[index], rows[index], dropped="the question nearly repeats an existing one"
        )
        for index in sorted(copies)
    ]
    return kept, dropped


def _strip_to_object(text: str) -> str:
    """Return the only JSON object of a reply on one line, without fences or text around it."""
    return " ".join(text[text.find("{") : text.rfind("}") + 1].splitlines())


def _parse_questions(text: str) -> list[str]:
    questions = []
    for line in text.splitlines():
        try:
            value = json.loads(line.strip().rstrip(","))
        except (json.JSONDecodeError, RecursionError):
            continue
        question = value.get("question") if isinstance(value, dict) else None
        if isinstance(question, str) and question.strip():
            questions.append(question.strip())
    return questions
