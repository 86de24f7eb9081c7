"""A judge is used only if it agrees with people; then its grades are the scores."""

import json

import pytest

from burnish.core.errors import BadData, BadRecipe, NotFound, TeacherStopped
from burnish.core.recipe.evaluate import Evaluate
from burnish.core.records import Interval, Message, Prediction, Row, Scores
from burnish.engines.answerers import remote
from burnish.evaluate.judge_calibration import calibrate_judge
from burnish.evaluate.run import evaluate_source
from tests.stubs.teacher import Stub, serving


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Tries follow each other at once."""
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.001)


def part(text, name):
    return text.partition(f"<{name}>\n")[2].partition(f"\n</{name}>")[0]


def fair(text):
    """A judge that looks whether the reference is in the answer, and says so at length."""
    right = part(text, "reference") in part(text, "answer")
    return f"The answer was compared.\n\n**Grade: {'Right' if right else 'Wrong'}.**"


@pytest.fixture
def stub():
    with serving(Stub(answer=fair)) as running:
        yield running


@pytest.fixture
def people(write_rows):
    """A file of `count` answers that people graded; two of them against the words."""

    def write(count=60, name="people.jsonl", **changes):
        rows = [
            {
                "question": f"What is {number} and one?",
                "reference": f"sum {number + 1}.",
                "answer": f"It is sum {number + 1 + number % 2}.",
                "verdict": ("wrong" if number % 2 else "right") if number > 1 else "right",
                **changes,
            }
            for number in range(count)
        ]
        return write_rows(name, rows)

    return write


def settings(stub, file, **changes):
    judge = {"model": "big", "endpoint": stub.url, "human": [str(file)], **changes}
    return Evaluate.model_validate({"metric": "graded", "judge": judge})


def test_a_judge_that_agrees_with_people_is_accepted_and_asked_once(stub, people):
    found = calibrate_judge(settings(stub, people()), ["tiny"])

    assert found.agreement.kappa.n == 60 and found.agreement.share == 59 / 60
    assert found.agreement.kappa.value > 0.9 and found.agreement.kappa.low < 0.95
    assert found.related_models == () and "grades by a model, big" in found.summary
    shown = stub.bodies[0]["messages"]
    assert "right, wrong" in shown[0]["content"] and "the reference says" in shown[0]["content"]
    assert part(shown[1]["content"], "answer").startswith("It is sum")

    calibrate_judge(settings(stub, people()), ["tiny"])
    assert sum(stub.asked.values()) == 60


def test_one_that_grades_otherwise_is_refused_with_what_to_do(stub, people):
    stub.answer = lambda text: "right" if len(text) % 2 else "wrong"

    with pytest.raises(BadRecipe, match="doesn't grade as people do: kappa") as error:
        calibrate_judge(settings(stub, people()), [])

    assert "rubric" in error.value.fix and error.value.code == 2


def test_a_reply_without_a_clear_grade_is_no_agreement(stub, people):
    stub.answer = lambda text: "It is either right or wrong."

    with pytest.raises(BadRecipe, match=r"kappa 0\.00 .* it says nothing clear"):
        calibrate_judge(settings(stub, people()), [])


@pytest.mark.parametrize(
    ("count", "changes", "said"),
    [
        (30, {}, "People graded 30 different answers"),
        (60, {"verdict": "right"}, "all 60 answers `right`"),
        (
            60,
            {"question": "same", "reference": "same", "answer": "same"},
            "the same answer another verdict",
        ),
        (60, {"verdict": "so so"}, "row 1: the row needs a question"),
        (60, {"question": None}, "row 1: the row needs a question"),
    ],
)
def test_too_little_from_people_is_refused_before_anything_is_asked(
    stub, people, count, changes, said
):
    with pytest.raises((BadRecipe, BadData), match=said):
        calibrate_judge(settings(stub, people(count, **changes)), [])

    assert not stub.bodies


def test_what_is_not_named_or_not_there_is_said(stub, people, tmp_path):
    with pytest.raises(BadRecipe, match="No judge is named"):
        calibrate_judge(Evaluate.model_validate({"metric": "graded"}), [])
    with pytest.raises(BadRecipe, match="no file of their grades is named"):
        calibrate_judge(
            Evaluate.model_validate(
                {"metric": "graded", "judge": {"model": "big", "endpoint": stub.url}}
            ),
            [],
        )
    with pytest.raises(NotFound, match="is not a file"):
        calibrate_judge(settings(stub, tmp_path / "nowhere.csv"), [])
    stub.fault = lambda text, count: (401, {})
    with pytest.raises(TeacherStopped, match="401") as error:
        calibrate_judge(settings(stub, people()), [])
    assert "evaluate.judge.key_from" in error.value.fix
    assert calibrate_judge(Evaluate(), []) is None


def test_grades_take_the_place_of_the_scores_of_words(stub, people):
    found = calibrate_judge(settings(stub, people()), [])
    rows = [
        Row((Message("user", "Who?"), Message("assistant", "Ann"), Message("user", "And then?"),
             Message("assistant", "Bob")), file="a", line=1),
        Row((Message("user", "Where?"), Message("assistant", "Here")), file="a", line=2),
        Row((Message("user", "When?"), Message("assistant", "Now")), file="a", line=3),
    ]  # fmt: skip
    said = ("Surely Bob, whom you know.", "There", "unclear")
    words = [
        Prediction(row.id, row.prompt[-1].content, row.answer, answer, 0.25, 1, 1, 0.1)
        for row, answer in zip(rows, said, strict=True)
    ]
    stub.answer = lambda text: "no idea" if part(text, "answer") == "unclear" else fair(text)

    graded = found.grade(
        Scores("rouge_l", words, Interval(0.25, 0, 1, 3), {"chrf": 0.1}), rows, Evaluate()
    )

    assert graded.metric == "graded" and graded.values == [1, 0, 0]
    assert graded.extra == {"rouge_l": 0.25, "chrf": 0.1, "no_clear_grade": pytest.approx(1 / 3)}
    assert graded.interval.value == pytest.approx(1 / 3) and graded.interval.n == 3
    asked = next(text for text in stub.asked if "And then?" in text)
    assert "assistant: Ann" in asked, "a conversation is shown whole"


def test_other_grades_have_the_scores_that_the_recipe_says(stub, people, write_rows):
    grades = {"2 of 2": 1.0, "1 of 2": 0.5, "0 of 2": 0.0}
    stub.answer = lambda text: "1 of 2" if part(text, "answer") == "half" else "2 of 2"
    rows = [
        {"prompt": f"q{n}", "expected": "x", "answer": "half" if n % 2 else "x",
         "verdict": "1 of 2" if n % 2 else "2 of 2", "score": 0.5}
        for n in range(10)
    ]  # fmt: skip
    rows += [{**row, "prompt": f"{row['prompt']} again"} for row in rows]

    file = write_rows("lines-of-predictions.jsonl", rows)
    found = calibrate_judge(settings(stub, file, grades=grades, least_labels=20), [])

    row = Row((Message("user", "Where?"), Message("assistant", "Here")), file="a", line=1)
    one = Prediction(row.id, "Where?", "Here", "half", 0, 1, 1, 0.1)
    scores = found.grade(Scores("chrf", [one], Interval(0, 0, 1, 1)), [row], Evaluate())
    assert scores.values == [0.5]


def test_a_judge_of_this_machine_is_held_to_the_grades_and_named_as_kin(tiny, people, stub):
    judge = {"model": tiny.name, "human": [str(people())]}
    with pytest.raises(BadRecipe, match="tiny doesn't grade as people do"):
        calibrate_judge(Evaluate.model_validate({"metric": "graded", "judge": judge}), [])

    same = settings(stub, people(), model="llama")
    assert calibrate_judge(same, ["tiny", "llama"]).related_models == ("llama",)


def test_evaluate_reports_the_judge(ticket_recipe, stub, people, tmp_path):
    changes = [
        "evaluate.metric=graded", f"evaluate.judge.endpoint={stub.url}",
        "evaluate.judge.model=big", f"evaluate.judge.human={people()}", "task.kind=generation",
        "evaluate.max_rows=5", "evaluate.max_new_tokens=8", "data.format=pairs",
        "data.columns.prompt=text", "data.columns.completion=label",
    ]  # fmt: skip
    result = evaluate_source(ticket_recipe(*changes), out=tmp_path / "run")

    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["metric"] == "graded" and report["value"] == result.scores.interval.value
    assert report["judge"]["labels"] == 60 and report["judge"]["kappa"] > 0.9
    assert "rouge_l" in report
