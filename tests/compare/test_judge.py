"""A comparison whose answers a model grades says so, and needs a model that grades as people do."""

import json

import pytest

from burnish.compare.run import compare
from burnish.core.errors import BadRecipe
from burnish.core.runs import list_runs
from burnish.distill.run import distill
from burnish.evaluate import latency
from tests.fixtures.tickets import WORDS
from tests.stubs.teacher import Stub, serving


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Three single requests are enough here."""
    monkeypatch.setattr(latency, "_QUESTIONS", 3)


def part(text, name):
    return text.partition(f"<{name}>\n")[2].partition(f"\n</{name}>")[0]


@pytest.fixture
def stub():
    def answer(text):
        return "right" if part(text, "answer") == part(text, "reference") else "wrong"

    with serving(Stub(answer=answer)) as running:
        yield running


@pytest.fixture
def graded_recipe(ticket_recipe, stub, write_rows):
    """The ticket comparison by grades, with 60 answers that people graded."""
    labels = sorted(WORDS)
    people = [
        {"question": f"Ticket {n}?", "reference": labels[n % 3], "answer": labels[n % 5 % 3],
         "verdict": "right" if n % 5 % 3 == n % 3 else "wrong"}
        for n in range(60)
    ]  # fmt: skip
    file = write_rows("people.jsonl", people)

    def build(*changes):
        return ticket_recipe(
            "compare.forgetting=false", "evaluate.metric=graded", "evaluate.judge.model=big",
            f"evaluate.judge.endpoint={stub.url}", f"evaluate.judge.human={file}", *changes,
        )  # fmt: skip

    return build


def test_grades_decide_and_everything_says_whose_they_are(graded_recipe, stub, tmp_path):
    result = compare(graded_recipe("compare.seeds=2"), out=tmp_path / "run")

    assert result.verdict.decision == "ship" and "graded and" in result.verdict.reason
    assert "The scores are grades by a model, big." in result.verdict.reason
    assert "kappa 1.00" in result.as_text()
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    inputs = json.loads((tmp_path / "run" / "inputs.json").read_text())["data"]
    assert any(file.endswith("people.jsonl") for file in inputs)
    judge = report["judge"]
    assert (judge["name"], judge["labels"], judge["agreement"]) == ("big", 60, 1.0)
    assert judge["ci"][0] < judge["kappa"] == judge["ci"][1] == 1
    assert [line[:2] for line in judge["confusion"][:2]] == [[20, 0], [0, 40]]
    for route in report["routes"]:
        assert route["metric"] == "graded"
        assert route["value"] == pytest.approx(route["accuracy"], abs=1e-6)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Who graded: big, a model" in page and "It says wrong" in page

    asked = len(stub.bodies)
    assert max(stub.asked.values()) == 1, "an answer that several routes give is graded once"
    again = compare(graded_recipe("compare.seeds=2"))
    assert again.verdict == result.verdict and len(stub.bodies) == asked


def test_a_judge_that_people_would_not_trust_stops_it_before_anything_is_measured(
    graded_recipe, stub, workspace
):
    stub.answer = lambda text: "right"

    with pytest.raises(BadRecipe, match="doesn't grade as people do"):
        compare(graded_recipe())

    assert not (workspace / "cache" / "predictions").exists() and not list_runs()


def test_a_distillation_compares_words(graded_recipe):
    with pytest.raises(BadRecipe, match="needs a text metric"):
        distill(graded_recipe("distill.teacher.model=tiny"))
