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
from burnish.data.duplicates import plain
from burnish.distill.teacher_answers import Collector, Lesson, Opinion
from burnish.engines.answerers.protocol import Reply
from burnish.rag.chunking import chunks
from burnish.rag.indexing import documents_in
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


def passages_of(recipe: Recipe) -> list[Passage]:
    """The passages of the recipe's documents. Raises NotFound, BadData for what can't be read."""
    files, _ = documents_in([str(path) for path in recipe.rag.documents])
    found = []
    for file in files:
        document = read_document(file)
        for block in chunks(document, _spans, recipe.rag.chunk_tokens):
            text = document.text[block.start : block.end]
            if len(plain(text).split()) >= _FEWEST_WORDS:
                place = (block.headings, block.page, block.start, block.end)
                found.append(Passage(str(file), document.title, *place, text))
    return found


def written(collector: Collector, passages: Sequence[Passage], recipe: Recipe) -> list[Lesson]:
    """The rows that the teacher writes about passages; those that can't be used say why.

    Raises TeacherStopped as the collector does.
    """
    count = recipe.distil.questions_per_passage
    prompts = [
        Prompt(
            (
                Message(
                    "user",
                    _REQUEST.format(count=count, place=passage.place, text=passage.text),
                ),
            ),
            max_new_tokens=count * _PAIR,
        )
        for passage in passages
    ]
    lessons: list[Lesson] = []
    for passage, (key, reply) in zip(passages, collector.replies(prompts), strict=True):
        before = sum(lesson.own.file == passage.file for lesson in lessons)
        for number, pair in enumerate(_pairs(reply), start=before + 1):
            lessons.append(_lesson(passage, pair, number, (key, reply, recipe.task.prompt)))
    return lessons


def with_readers(
    lessons: Sequence[Lesson], collector: Collector, passages: Sequence[Passage]
) -> list[Lesson]:
    """Written rows with what one more teacher, which sees the passage too, answers to the question.

    Rows that are dropped already aren't asked. Raises TeacherStopped as the collector does.
    """
    known = {passage.source: passage for passage in passages}
    places = [place for place, lesson in enumerate(lessons) if not lesson.dropped]
    prompts = [_question(lessons[place], known[lessons[place].source]) for place in places]
    heard = list(lessons)
    for place, (key, reply) in zip(places, collector.replies(prompts), strict=True):
        opinion = Opinion(collector.teacher.name, (key,), (reply,))
        heard[place] = replace(lessons[place], opinions=(*lessons[place].opinions, opinion))
    return heard


def _question(lesson: Lesson, passage: Passage) -> Prompt:
    asked = lesson.own.messages[-1].content
    text = _ANSWER.format(place=passage.place, text=passage.text, question=asked)
    return Prompt((Message("user", text),), max_new_tokens=_PAIR)


def _lesson(
    passage: Passage,
    pair: tuple[str, str],
    number: int,
    source: tuple[str, Reply, str | None],
) -> Lesson:
    """One question with its answer; `source` is the request, its reply and the system message."""
    key, reply, system = source
    question, answer = pair
    before = (Message("system", system),) if system else ()
    asked = (*before, Message("user", question))
    own = Row(messages=asked, file=passage.file, line=number, group=passage.source)
    # A line that breaks off is no pair; the pairs before it are whole.
    told = replace(reply, text=answer, finish_reason="stop")
    return Lesson(
        row=replace(own, messages=(*asked, Message("assistant", answer))),
        own=own,
        keys=(key,),
        replies=(told,),
        dropped=_why_not(reply, question, answer, passage.text),
        source=passage.source,
    )


def _why_not(reply: Reply, question: str, answer: str, text: str) -> str:
    if reply.error:
        return f"the teacher failed: {reply.error}"
    if not question:
        return "the teacher wrote no question with an answer"
    words, known = plain(answer).split(), set(plain(text).split())
    if words and sum(word in known for word in words) < _GROUNDED * len(words):
        return "the answer doesn't stand in the passage"
    return ""


def _pairs(reply: Reply) -> list[tuple[str, str]]:
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
