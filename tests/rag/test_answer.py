"""Answers lean on passages, say which, and say so when there are none."""

import pytest

from burnish.core.errors import PromptTooLong
from burnish.core.records import Message
from burnish.rag.answer import DONT_KNOW, INSTRUCTION, AnswerSettings, ask
from burnish.rag.prompt import fit_passages, with_passages
from burnish.rag.search import open_index
from burnish.rag.store import Passage
from tests.stubs.rule_engine import RuleEngine

ANY = AnswerSettings(k=3, least_similarity=-1)


class Model(RuleEngine):
    """A rule with a system message, as a run has one."""

    system = None


@pytest.fixture
def opened(folder, index):
    index(folder)
    return open_index("docs")


def passages(*texts):
    return [Passage(f"{n}.md", "T", ("H",), None, 0, 9, text) for n, text in enumerate(texts)]


def test_passages_stand_numbered_before_the_last_question():
    messages = (Message("system", "s"), Message("user", "first"), Message("assistant", "a"))
    asked = (*messages, Message("user", "second"))

    shown = with_passages(asked, passages("one", "two"))

    assert shown[:3] == messages
    assert shown[3].content == "[1] T > H\none\n\n[2] T > H\ntwo\n\nQuestion: second"
    assert with_passages(asked, []) == asked
    assert with_passages(messages[:1], passages("one")) == messages[:1]


def test_the_lowest_ranked_passage_is_dropped_first():
    engine, messages = Model(lambda prompt: ""), (Message("user", "why"),)
    size = engine.count_tokens(with_passages(messages, passages("a b", "c d")))
    three = passages("a b", "c d", "e f")

    for room, kept in ((1000, 3), (size, 2), (size - 1, 1), (3, 0)):
        found = fit_passages(messages, three, engine.count_tokens, room)
        assert found == three[:kept]
        assert not found or engine.count_tokens(with_passages(messages, found)) <= room


def test_an_answer_cites_the_passages_that_it_names(opened):
    engine = Model(lambda prompt: "In three days [2], or five [9].")

    reply = ask(engine, opened, "How long does a parcel take?", ANY)

    assert reply.known and [c.number for c in reply.citations if c.cited] == [2]
    system, question = engine.asked[0].messages
    assert system.content == INSTRUCTION
    for citation in reply.citations:
        passage = citation.hit.passage
        assert f"[{citation.number}] {passage.section}\n{passage.text}" in question.content
    text = reply.as_text()
    assert text.index("Cited:") < text.index("[2] ", 20) < text.index("Shown too:")
    assert set(reply.as_dict()["citations"][0]) == {
        "number", "cited", "file", "title", "headings", "page", "start", "end", "text", "score",
        "similarity", "by_meaning", "by_words", "relevance",
    }  # fmt: skip


def test_an_answer_without_a_number_says_that_it_names_none(opened):
    reply = ask(Model(lambda prompt: "Three days."), opened, "How long?", ANY)

    assert "names no passage" in reply.as_text()


@pytest.mark.parametrize("said", ["I don't know.", "I don’t know", "i do not know that."])
def test_a_model_may_say_that_it_does_not_know(opened, said):
    assert not ask(Model(lambda prompt: said), opened, "How long?", ANY).known


def test_where_nothing_is_similar_the_model_is_not_asked(opened):
    engine = Model(lambda prompt: "An invented fact.")

    reply = ask(engine, opened, "Who?", AnswerSettings(least_similarity=1.0))

    assert (reply.answer, reply.known, reply.citations) == (DONT_KNOW, False, ())
    assert not engine.asked


def test_a_run_is_asked_with_the_prompt_of_its_training(opened):
    engine = Model(lambda prompt: "yes")
    engine.system = "You answer tickets."

    ask(engine, opened, "How long?", ANY)

    assert engine.asked[0].messages[0].content == "You answer tickets."


def test_passages_that_do_not_fit_the_context_are_left_out(opened):
    roomy, tight = (Model(lambda prompt: "yes", context_length=n) for n in (1000, 190))
    question, asking = "How long does a parcel take?", AnswerSettings(k=5, least_similarity=-1)

    assert len(ask(roomy, opened, question, asking).citations) == 5
    assert 0 < len(ask(tight, opened, question, asking).citations) < 5
    with pytest.raises(PromptTooLong, match="Not even one"):
        ask(Model(lambda prompt: "yes", context_length=140), opened, question, asking)
