"""Questions and answers from documents: the teacher writes them, passage by passage.

A row records its passage. An answer whose words don't occur in its passage is dropped: this proves
nothing, but an answer that fails was made up or came from elsewhere.
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

#: Token limit of a question with its answer.
_PAIR = 96
#: Passages with fewer words are skipped.
_FEWEST_WORDS = 12
#: This share of an answer's words must occur in the passage.
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
    """Return the passages of the recipe's documents. Raises NotFound, and BadData for unreadable
    files."""
    files, _ = find_documents([str(path) for path in recipe.rag.documents])
    passages = []
    for file in files:
        document = read_document(file)
        for block in chunk_document(document, _spans, recipe.rag.chunk_tokens):
            text = document.text[block.start : block.end]
            if len(normalize_text(text).split()) >= _FEWEST_WORDS:
                location = (block.headings, block.page, block.start, block.end)
                passages.append(Passage(str(file), document.title, *location, text))
    return passages


def write_questions(
    collector: AnswerCollector, passages: Sequence[Passage], recipe: Recipe
) -> list[TeacherExample]:
    """Return the rows that the teacher writes about passages; unusable ones with the reason.

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
    examples: list[TeacherExample] = []
    for passage, (key, reply) in zip(passages, collector.ask(prompts), strict=True):
        existing = sum(example.original.file == passage.file for example in examples)
        for number, pair in enumerate(_parse_pairs(reply), start=existing + 1):
            examples.append(_make_example(passage, pair, number, (key, reply, recipe.task.prompt)))
    return examples


def add_reader_opinions(
    examples: Sequence[TeacherExample], collector: AnswerCollector, passages: Sequence[Passage]
) -> list[TeacherExample]:
    """Return written rows with the answers of one more teacher, which sees the passage too.

    Dropped rows aren't asked. Raises TeacherStopped as the collector does.
    """
    passage_by_source = {passage.source: passage for passage in passages}
    indices = [index for index, example in enumerate(examples) if not example.dropped]
    prompts = [
        _question_prompt(examples[index], passage_by_source[examples[index].source])
        for index in indices
    ]
    result = list(examples)
    for index, (key, reply) in zip(indices, collector.ask(prompts), strict=True):
        opinion = SecondOpinion(collector.teacher.name, (key,), (reply,))
        result[index] = replace(examples[index], opinions=(*examples[index].opinions, opinion))
    return result


def _question_prompt(example: TeacherExample, passage: Passage) -> Prompt:
    question = example.original.messages[-1].content
    text = _ANSWER.format(place=passage.section, text=passage.text, question=question)
    return Prompt((Message("user", text),), max_new_tokens=_PAIR)


def _make_example(
    passage: Passage,
    pair: tuple[str, str],
    number: int,
    source: tuple[str, AnswererReply, str | None],
) -> TeacherExample:
    """Return one question with its answer; `source` is the request key, its reply and the system
    message."""
    key, reply, system = source
    question, answer = pair
    system_turns = (Message("system", system),) if system else ()
    prompt = (*system_turns, Message("user", question))
    original = Row(messages=prompt, file=passage.file, line=number, group=passage.source)
    # A truncated last line isn't parsed as a pair; the pairs before it are complete.
    answer_reply = replace(reply, text=answer, finish_reason="stop")
    return TeacherExample(
        row=replace(original, messages=(*prompt, Message("assistant", answer))),
        original=original,
        keys=(key,),
        replies=(answer_reply,),
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
        return "the answer isn't in the passage"
    return ""


def _parse_pairs(reply: AnswererReply) -> list[tuple[str, str]]:
    """Return the questions and answers in a reply; one empty pair if there is none."""
    pairs = []
    for line in reply.text.splitlines():
        try:
            value = json.loads(line.strip().rstrip(","))
        except (json.JSONDecodeError, RecursionError):
            continue
        pair = (value.get("question"), value.get("answer")) if isinstance(value, dict) else ()
        if pair and all(isinstance(text, str) and text.strip() for text in pair):
            pairs.append((str(pair[0]).strip(), str(pair[1]).strip()))
    return pairs or [("", "")]


def _spans(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in _SIGNS.finditer(text)]
