"""Questions with their answers from documents: the teacher writes them, passage by passage.

A row keeps the passage that it comes from. An answer whose words don't stand in its passage is
dropped: that is a plain test and no proof, but what fails it was made up or came from elsewhere.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace

from burnish.core.recipe.recipe import Recipe
from burnish.core.records import Message, Prompt, Row
from burnish.data.duplicates import normalize_text
from burnish.distill.teacher_answers import AnswerCollector, SecondOpinion, TeacherExample
from burnish.engines.answerers.protocol import AnswererReply
from burnish.rag.chunking import chunk_document
from burnish.rag.indexing import find_documents
from burnish.rag.readers import read_document
from burnish.rag.store import Passage

#: Tokens that a question with its answer may take.
_PAIR = 96
#: Passages with fewer words have nothing to ask about.
_FEWEST_WORDS = 12
#: Of an answer's words, this share must stand in the passage.
_GROUNDED = 0.8
_SIGNS = re.compile(r"\w+|[^\w\s]")
_REQUEST = """Read the passage and write {count} different questions that a reader could ask and \
that the passage alone answers. Each question must be understood without seeing the passage. \
Answer briefly, in the passage's own words. Write one JSON object a line and nothing else: \
{{"question": "...", "answer": "..."}}

{place}

{text}"""
_ANSWER = """Read the passage and answer the question briefly, in the passage's own words. If the \
passage doesn't answer it, write: not in the passage.

{place}

{text}

Question: {question}"""


def read_passages(recipe: Recipe) -> list[Passage]:
    """The passages of the recipe's documents. Raises NotFound, BadData for what can't be read."""
    files, _ = find_documents([str(path) for path in recipe.rag.documents])
    found = []
    for file in files:
        document = read_document(file)
        for block in chunk_document(document, _spans, recipe.rag.chunk_tokens):
            text = document.text[block.start : block.end]
            if len(normalize_text(text).split()) >= _FEWEST_WORDS:
                place = (block.headings, block.page, block.start, block.end)
                found.append(Passage(str(file), document.title, *place, text))
    return found


def write_questions(
    collector: AnswerCollector, passages: Sequence[Passage], recipe: Recipe
) -> list[TeacherExample]:
    """The rows that the teacher writes about passages; those that can't be used say why.

    Raises TeacherStopped as the collector does.
    """
    count = recipe.distill.questions_per_passage
    prompts = [
        Prompt(
            (
                Message(
                    "user",
                    _REQUEST.format(count=count, place=passage.section, text=passage.text),
                ),
            ),
            max_new_tokens=count * _PAIR,
        )
        for passage in passages
    ]
    lessons: list[TeacherExample] = []
    for passage, (key, reply) in zip(passages, collector.ask(prompts), strict=True):
        before = sum(lesson.original.file == passage.file for lesson in lessons)
        for number, pair in enumerate(_parse_pairs(reply), start=before + 1):
            lessons.append(_make_example(passage, pair, number, (key, reply, recipe.task.prompt)))
    return lessons


def add_reader_opinions(
    lessons: Sequence[TeacherExample], collector: AnswerCollector, passages: Sequence[Passage]
) -> list[TeacherExample]:
    """Written rows with what one more teacher, which sees the passage too, answers to the question.

    Rows that are dropped already aren't asked. Raises TeacherStopped as the collector does.
    """
    known = {passage.source: passage for passage in passages}
    places = [place for place, lesson in enumerate(lessons) if not lesson.dropped]
    prompts = [_question_prompt(lessons[place], known[lessons[place].source]) for place in places]
    heard = list(lessons)
    for place, (key, reply) in zip(places, collector.ask(prompts), strict=True):
        opinion = SecondOpinion(collector.teacher.name, (key,), (reply,))
        heard[place] = replace(lessons[place], opinions=(*lessons[place].opinions, opinion))
    return heard


def _question_prompt(lesson: TeacherExample, passage: Passage) -> Prompt:
    asked = lesson.original.messages[-1].content
    text = _ANSWER.format(place=passage.section, text=passage.text, question=asked)
    return Prompt((Message("user", text),), max_new_tokens=_PAIR)


def _make_example(
    passage: Passage,
    pair: tuple[str, str],
    number: int,
    source: tuple[str, AnswererReply, str | None],
) -> TeacherExample:
    """One question with its answer; `source` is the request, its reply and the system message."""
    key, reply, system = source
    question, answer = pair
    before = (Message("system", system),) if system else ()
    asked = (*before, Message("user", question))
    own = Row(messages=asked, file=passage.file, line=number, group=passage.source)
    # A line that breaks off is no pair; the pairs before it are whole.
    told = replace(reply, text=answer, finish_reason="stop")
    return TeacherExample(
        row=replace(own, messages=(*asked, Message("assistant", answer))),
        original=own,
        keys=(key,),
        replies=(told,),
        dropped=_why_unusable(reply, question, answer, passage.text),
        source=passage.source,
    )


def _why_unusable(reply: AnswererReply, question: str, answer: str, text: str) -> str:
    if reply.error:
        return f"the teacher failed: {reply.error}"
    if not question:
        return "the teacher wrote no question with an answer"
    words, known = normalize_text(answer).split(), set(normalize_text(text).split())
    if words and sum(word in known for word in words) < _GROUNDED * len(words):
        return "the answer doesn't stand in the passage"
    return ""


def _parse_pairs(reply: AnswererReply) -> list[tuple[str, str]]:
    """The questions and answers in a reply; one empty pair if there is none."""
    found = []
    for line in reply.text.splitlines():
        try:
            value = json.loads(line.strip().rstrip(","))
        except (json.JSONDecodeError, RecursionError):
            continue
        pair = (value.get("question"), value.get("answer")) if isinstance(value, dict) else ()
        if pair and all(isinstance(text, str) and text.strip() for text in pair):
            found.append((str(pair[0]).strip(), str(pair[1]).strip()))
    return found or [("", "")]


def _spans(text: str) -> list[tuple[int, int]]:
    return [found.span() for found in _SIGNS.finditer(text)]
