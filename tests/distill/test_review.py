"""Rows on which teachers or checks disagree: dropped, shown to a person, decided for good."""

import json
import os
import pty
import select
import subprocess
import sys
import termios
import time

import pytest

from burnish.core.errors import BadData, NotFound
from burnish.core.journal import read_journal
from burnish.core.recipe.data import Task
from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Message, Row
from burnish.core.runs import new_run
from burnish.distill.agreement import add_opinions, agreement_filter
from burnish.distill.artifacts import save_examples
from burnish.distill.filters import answer_norms, check_examples
from burnish.distill.review import (
    REVIEWS,
    decide,
    decision_filter,
    list_disputed,
    load_decisions,
    review_key,
)
from burnish.distill.run import distill
from burnish.distill.teacher_answers import QuestionFormat
from tests.distill.test_run import changed, label_of
from tests.fixtures.distillation import questions
from tests.stubs.teacher import Stub, serving

ASKING = QuestionFormat(instruction="", max_new_tokens=16)
LABELS = ("delivery", "refund")


@pytest.fixture
def second():
    """Another teacher, which disagrees on every third question."""
    with serving(Stub()) as running:
        running.answer = lambda text: "refund" if int(text.split()[-1]) % 3 == 0 else "delivery"
        yield running


def labelled(recipe, labels=LABELS):
    return recipe.model_copy(update={"task": Task(kind="classification", labels=labels)})


def lessons_of(collector, others, recipe, rows):
    """The rows as two teachers answer them and a person has decided."""
    found = collector.collect(rows, ASKING)
    for other in others:
        found = add_opinions(found, other, ASKING)
    agreed, decided = (
        agreement_filter(recipe, recipe.task),
        decision_filter(load_decisions(collector.run)),
    )
    standard = answer_norms(rows, recipe.task)
    return check_examples(found, standard, [], (1.0, 1.0), lambda lesson: decided(agreed(lesson)))


@pytest.fixture
def reviewed(collector_of, second):
    """A run of nine questions, of which the teachers disagree on three; and how to do it again."""
    run = new_run("distill", labelled(make_recipe({"distill": {"teacher": {"model": "big"}}})), {})

    def again():
        one = collector_of(run)
        other = collector_of(run, model="other", endpoint=second.url)
        recipe = labelled(one.recipe)
        found = lessons_of(one, [other], recipe, questions(9))
        save_examples(run, one.teacher, recipe, {"train": found})
        return found

    return run, again


def test_a_row_is_learnt_where_the_teachers_agree(reviewed):
    run, again = reviewed

    found = again()

    dropped = [lesson for lesson in found if lesson.dropped]
    assert [lesson.original.line for lesson in dropped] == [1, 4, 7]
    assert {lesson.dropped for lesson in dropped} == {"the teachers disagree"}
    assert [row.answers for row in list_disputed(run)] == 3 * [
        (("big", "delivery"), ("other", "refund"))
    ]
    kept = [json.loads(line) for line in (run.path / "teacher.jsonl").read_text().splitlines()]
    assert len(kept) == 6 and kept[0]["opinions"][0]["teacher"] == "other"


@pytest.mark.parametrize(("least", "dropped"), [(0.9, True), (0.5, False)])
def test_free_text_agrees_by_the_metric(collector_of, stub, second, least, dropped):
    stub.answer = lambda text: "the parcel comes on Monday"
    second.answer = lambda text: "the parcel comes Tuesday"
    one, other = collector_of(), collector_of(model="other", endpoint=second.url)
    settings = one.recipe.distill.model_copy(update={"agreement": least})
    recipe = one.recipe.model_copy(update={"task": Task(kind="generation"), "distill": settings})

    found = lessons_of(one, [other], recipe, questions(1))

    assert bool(found[0].dropped) is dropped


def test_a_decision_counts_from_the_next_time_on_and_stands_with_the_row(reviewed):
    run, again = reviewed
    again()
    first, then, last = list_disputed(run)
    decide(run, first, "keep", "refund")
    decide(run, then, "drop")
    decide(run, last, "skip")

    with pytest.raises(BadData, match="is not a label"):
        decide(run, last, "edit", "nonsense")
    found = again()

    assert (found[0].row.answer, found[0].dropped) == ("refund", "")
    assert found[0].review["overruled"] == "the teachers disagree"
    assert (found[3].dropped, found[3].disputed) == ("a person dropped it", False)
    assert list_disputed(run) == [last], "what was skipped is shown again"
    kept = [json.loads(line) for line in (run.path / "teacher.jsonl").read_text().splitlines()]
    decided = next(one for one in kept if one["row"] == first.row)
    assert decided["review"]["decision"] == "keep"
    assert decided["messages"][-1]["content"] == "refund"


def test_a_sample_stays_the_same_while_it_is_decided(reviewed):
    run, again = reviewed
    again()
    drawn = list_disputed(run, sample=2, seed=5)

    decide(run, drawn[0], "drop")

    assert len(drawn) == 2 and list_disputed(run, sample=2, seed=5) == drawn[1:]
    assert {tuple(r.key for r in list_disputed(run, 1, seed)) for seed in range(20)} != {
        (drawn[1].key,)
    }


def test_a_row_of_the_test_split_cannot_be_kept(collector_of, stub):
    stub.answer = lambda text: "I'm sorry, I can't"
    collector = collector_of()
    recipe = collector.recipe.model_copy(update={"task": Task(kind="generation")})
    rows = questions(1)
    test = [Row(messages=(*rows[0].messages, Message("assistant", "x")), file="t", line=1)]
    found = collector.collect(rows, ASKING)
    standard = answer_norms([], recipe.task)
    known = {review_key(found[0]): {"decision": "keep", "answer": "yes"}}
    overruled = check_examples(found, standard, test, (1.0, 1.0), decision_filter(known))

    assert overruled[0].review and overruled[0].dropped == "the question is in the test rows"


def test_only_a_distillation_can_be_reviewed(workspace):
    run = new_run("train", make_recipe({}), {})

    with pytest.raises(NotFound, match="no answers of a teacher"):
        list_disputed(run)


def test_a_review_that_is_killed_goes_on_where_it_stood(reviewed):
    run, again = reviewed
    again()

    first, shown = typed(run, "1")
    first.kill()
    first.wait()
    assert "1 of 3" in shown
    entries = read_journal(run.path / REVIEWS)
    assert [entry["answer"] for entry in entries] == ["delivery"]

    second, shown = typed(run, "e", "refund\n", "q")
    assert second.wait(60) == 0 and "1 of 2" in shown and "1 rows wait" in shown
    entries = read_journal(run.path / REVIEWS)
    assert [entry["decision"] for entry in entries] == ["keep", "edit"]

    listed = subprocess.run(
        [sys.executable, "-m", "burnish", "review", str(run.path), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [row["key"] for row in json.loads(listed.stdout)] == [list_disputed(run)[0].key]


def typed(run, *keys):
    """A review at a terminal after these keys: the process, and what it showed."""
    ours, theirs = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-m", "burnish", "review", str(run.path)],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=os.environ,
    )  # fmt: skip
    os.close(theirs)
    shown = ""
    for key in keys:
        is_line = key.endswith("\n")
        shown += read_until(ours, "Answer" if is_line else "[k/d/e/s/q]")
        wait_for(lambda line=is_line: bool(termios.tcgetattr(ours)[3] & termios.ICANON) is line)
        os.write(ours, key.encode())
    return done, shown + read_until(ours, "from the next" if keys[-1] == "q" else "[k/d/e/s/q]")


def read_until(handle, wanted):
    shown = ""
    while wanted not in shown:
        assert select.select([handle], [], [], 60)[0], shown
        shown += os.read(handle, 4096).decode(errors="replace")
    return shown


def wait_for(happened):
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_whole_distillation_with_two_teachers_and_a_person(ticket_recipe, stub, second, tmp_path):
    stub.answer = label_of
    second.answer = lambda text: "refund" if "password" in text else label_of(text)
    recipe = changed(
        ticket_recipe(), "distill.teacher.model=big", f"distill.teacher.endpoint={stub.url}",
        f"distill.teachers=[{{model: other, endpoint: '{second.url}'}}]",
    )  # fmt: skip

    first = distill(recipe)

    waiting = list_disputed(first.run)
    assert waiting and first.as_dict()["disputed"] == len(waiting)
    assert first.as_dict()["teachers"]["other"]["asked"] == 90
    for row in waiting:
        decide(first.run, row, "keep", "account")
    asked = sum(stub.asked.values()) + sum(second.asked.values())

    then = distill(recipe)

    assert then.as_dict()["reviewed"] == len(waiting) and not then.dropped()
    assert sum(stub.asked.values()) + sum(second.asked.values()) == asked
    assert then.training != first.training, "there is more to learn now"


def test_a_review_begins_without_loading_what_computes(tmp_path):
    run = new_run("distill", make_recipe({}), {})
    (run.path / "dropped.jsonl").write_text("")
    program = (
        "import sys; from burnish.cli.main import app\n"
        f"try: app(['review', {run.id!r}, '--json'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = [n for n in ('torch', 'transformers', 'peft') if n in sys.modules]\n"
        "print(heavy, file=sys.stderr)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout.strip() == "[]" and done.stderr.strip().splitlines()[-1] == "[]"
