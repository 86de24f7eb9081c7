"""A teacher's answers: kept, counted, paced, and never asked for twice."""

import time
from dataclasses import replace

import pytest

from burnish.core.errors import BadRecipe, TeacherStopped
from burnish.core.journal import read_journal
from burnish.core.recipe.data import Task
from burnish.core.records import Message, Row
from burnish.distill.filters import answer_norms, check_examples
from burnish.distill.teacher_answers import REQUESTS, QuestionFormat
from tests.fixtures.distillation import questions
from tests.stubs.teacher import fails

ASKING = QuestionFormat(instruction="", max_new_tokens=16)


def lines(collector):
    return read_journal(collector.run.path / REQUESTS)


def test_a_teacher_that_fails_40_percent_stops_the_job_and_nothing_is_lost(stub, collector_of):
    stub.fault = fails(0.4)
    collector = collector_of()

    with pytest.raises(TeacherStopped, match="success_ratio asks for 70%") as stopped:
        collector.collect(questions(400), ASKING)

    assert stopped.value.code == 1
    answered = {line["key"] for line in lines(collector) if not line["error"]}
    assert 20 <= len(lines(collector)) < 400, "early, but not at the first fault"
    assert f"All {len(answered)} answers are kept" in str(stopped.value)
    before = sum(stub.asked.values())
    stub.fault = lambda text, count: None
    again = collector_of()
    lessons = again.collect(questions(400), ASKING)
    assert all(not lesson.dropped for lesson in lessons)
    assert sum(stub.asked.values()) - before == 400 - len(answered)


def test_40_percent_stops_a_job_of_few_questions_at_its_end(stub, collector_of):
    stub.fault = lambda text, count: (500, {}) if int(text.split()[-1]) % 5 < 2 else None

    with pytest.raises(TeacherStopped, match="6 of 10"):
        collector_of(retries=0).collect(questions(10), ASKING)


def test_a_teacher_that_fails_20_percent_finishes_with_complete_accounts(stub, collector_of):
    stub.fault = fails(0.2)
    collector = collector_of()

    lessons = collector.collect(questions(200), ASKING)

    accounts = collector.budget.as_dict()
    assert all(lesson.row.answer == "delivery" for lesson in lessons)
    assert accounts["requests"] == sum(stub.asked.values()) > 200
    assert accounts["asked"] == accounts["answered"] == len(lines(collector)) == 200
    first = sum(1 for line in lines(collector) if line["tries"] == 1)
    assert accounts["answered_at_first_try"] == first < 180
    assert (accounts["tokens_in"], accounts["tokens_out"]) == (2000, 600)


def test_a_question_that_always_fails_is_dropped_and_asked_again_next_time(stub, collector_of):
    stub.fault = lambda text, count: (400, {}) if text.endswith(" 3") else None

    lessons = collector_of().collect(questions(10), ASKING)

    assert [lesson.original.line for lesson in lessons if lesson.dropped] == [4]
    assert "status 400" in lessons[3].dropped
    assert stub.asked["where is parcel 3"] == 1, "a refused question isn't tried again at once"
    collector_of().collect(questions(10), ASKING)
    assert stub.asked["where is parcel 3"] == 2 and sum(stub.asked.values()) == 11


def test_every_turn_of_a_conversation_is_answered_anew_with_its_history(stub, collector_of):
    stub.answer = lambda text: f"I heard {text}"
    row = Row(
        messages=(
            Message("system", "Be kind."), Message("user", "one"), Message("assistant", "old 1"),
            Message("user", "two"), Message("assistant", "kept", weight=0.0),
            Message("user", "three"), Message("assistant", "old 3"),
        ),
        file="c.jsonl", line=1,
    )  # fmt: skip

    lesson = collector_of().collect([row], ASKING)[0]

    said = [turn.content for turn in lesson.row.messages]
    assert said == ["Be kind.", "one", "I heard one", "two", "kept", "three", "I heard three"]
    assert [turn["content"] for turn in stub.bodies[-1]["messages"]] == said[:-1]
    assert len(lesson.keys) == len(lesson.replies) == 2


@pytest.mark.parametrize(
    ("said", "thought", "answer"),
    [
        ("<think>\nIt is late.\n</think>\n\ndelivery", "It is late.", "delivery"),
        ("It is late.\n</think>\ndelivery", "It is late.", "delivery"),
        (" <think>It is", "It is", ""),
        ("a < b, I think", "", "a < b, I think"),
        ({"content": "delivery", "reasoning_content": "It is late."}, "It is late.", "delivery"),
    ],
)
def test_what_a_teacher_thinks_is_kept_and_not_learnt(stub, collector_of, said, thought, answer):
    stub.answer = lambda text: said
    collector = collector_of()

    (lesson,) = collector.collect(questions(1), ASKING)

    assert lesson.row.answer == answer
    assert lesson.replies[0].thought == lines(collector)[0]["thought"] == thought
    standard = answer_norms([], Task(kind="generation"))
    (found,) = check_examples([lesson], standard, (), (0.95, 0.8))
    assert ("reasoned and gave no answer" in found.dropped) == (not answer)


def test_a_kept_thought_is_learnt_with_its_answer_and_rows_without_one_are_dropped(
    stub, collector_of
):
    stub.answer = lambda text: (
        "delivery" if text.endswith("1") else "<think>\nLate?\n</think>\n\n delivery "
    )
    keeping = replace(ASKING, keeps_reasoning=True)

    lessons = collector_of().collect(questions(3), keeping)

    standard = answer_norms([], Task(kind="classification", labels=("delivery",)))
    found = check_examples(lessons, standard, (), (1.0, 0.8))
    assert [lesson.dropped for lesson in found] == [
        "",
        "the teacher answered without reasoning",
        "",
    ]
    assert [(one.row.answer, one.reasoning) for one in found[::2]] == [("delivery", "Late?")] * 2
    assert found[0].with_answer("refund").reasoning == "", "a person's answer has no such reason"


def test_each_answer_of_a_conversation_keeps_its_thought_and_no_later_question_has_it(
    stub, collector_of
):
    stub.answer = lambda text: f"<think>\n{text}?\n</think>\n\nI heard {text}"
    ask, more = Message("user", "one"), Message("user", "two")
    said = Message("assistant", "a person's")
    both = Row(messages=(ask, said, more, said), file="c.jsonl", line=1)
    early = Row(messages=(ask, said, more, replace(said, weight=0.0)), file="c.jsonl", line=2)

    first, second = collector_of().collect([both, early], replace(ASKING, keeps_reasoning=True))

    told = [(m.content, m.reasoning) for m in first.row.messages if m.role == "assistant"]
    assert told == [("I heard one", "one?"), ("I heard two", "two?")]
    assert "one?" not in str(stub.bodies[-1]["messages"])
    assert [m.content for m in second.row.messages] == ["one", "I heard one", "two", "a person's"]
    (cut,) = collector_of().collect(
        [replace(both, messages=(ask, replace(said, reasoning="hm")))], ASKING
    )
    assert cut.row.messages[-1] == Message("assistant", "I heard one"), "nobody else's thought"
    assert second.reasoning == "one?" and second.with_answer("no").row.messages[1].content == "no"


def test_too_many_requests_is_no_failure_and_retry_after_is_obeyed(stub, collector_of):
    stub.fault = lambda text, count: (429, {"retry-after": "0.3"}) if count == 1 else None
    collector = collector_of(retries=0)
    begun = time.monotonic()

    lessons = collector.collect(questions(4), ASKING)

    assert not any(lesson.dropped for lesson in lessons)
    assert time.monotonic() - begun >= 0.3
    assert collector.budget.success_ratio == 1.0


def test_the_budget_is_held_against_the_forecast_and_on_the_way(stub, collector_of):
    with pytest.raises(TeacherStopped, match="No further question was asked"):
        collector_of(budget_money=0.001, price_out=1000).collect(questions(100), ASKING)
    assert not stub.asked

    short = QuestionFormat(instruction="", max_new_tokens=2)
    collector = collector_of(budget_tokens=1290)
    with pytest.raises(TeacherStopped, match="The budget is spent"):
        collector.collect(questions(100), short)
    spent = collector.budget.tokens_in + collector.budget.tokens_out
    assert 1000 < spent <= 1290 and len(lines(collector)) == spent / 13
    with pytest.raises(TeacherStopped, match="No further question was asked"):
        collector_of(budget_tokens=1295).collect(questions(100), short)
    assert sum(stub.asked.values()) == len(lines(collector)), "paid once, counted again"

    lessons = collector_of().collect(questions(100), short)
    assert len(lessons) == sum(stub.asked.values()) == 100


def test_a_wrong_key_or_address_ends_the_job_with_what_to_do(stub, collector_of, monkeypatch):
    with pytest.raises(BadRecipe, match="TEACHERS_KEY is empty"):
        collector_of(key_from="TEACHERS_KEY")
    monkeypatch.setenv("TEACHERS_KEY", "secret-words")
    stub.fault = lambda text, count: (401, {})
    collector = collector_of(key_from="TEACHERS_KEY")
    with pytest.raises(TeacherStopped, match="key_from"):
        collector.collect(questions(5), ASKING)
    assert stub.keys == {"Bearer secret-words"}
    for file in collector.run.path.iterdir():
        assert "secret-words" not in file.read_text()
    with pytest.raises(TeacherStopped, match="can't be reached"):
        collector_of(endpoint="http://127.0.0.1:9/v1").collect(questions(5), ASKING)


def test_other_sampling_is_another_question(stub, collector_of):
    collector_of().collect(questions(3), ASKING)
    collector_of(temperature=0.7).collect(questions(3), ASKING)

    assert set(stub.asked.values()) == {2}


def test_tokens_are_counted_here_where_the_endpoint_does_not(stub, collector_of):
    stub.usage = {}
    collector = collector_of()

    collector.collect(questions(4), ASKING)

    assert collector.budget.tokens_in > 16 and collector.budget.tokens_out == 4 * 2
