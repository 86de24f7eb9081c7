"""`distill` from rows to report, on a tiny model that really learns."""

import json

import pytest

from burnish.core.errors import AlreadyThere, BadRecipe, TeacherStopped
from burnish.core.journal import read_journal
from burnish.core.recipe.recipe import make_recipe
from burnish.core.runs import find_run
from burnish.distill.run import distill
from burnish.engines.local.open import open_local_engine
from burnish.evaluate.run import evaluate_source
from burnish.evaluate.scoring import load_predictions
from burnish.train.run import train
from tests.fixtures.tickets import WORDS, tickets


def label_of(text):
    return next((label for label, some in WORDS.items() if any(w in text for w in some)), "none")


def changed(recipe, *changes):
    return make_recipe(recipe.model_dump(mode="json"), changes)


def test_a_remote_teachers_answers_train_a_student_and_all_is_on_the_disk(
    ticket_recipe, stub, tmp_path
):
    stub.answer = lambda text: {"n": "nonsense", "r": "I'm sorry, I can't"}.get(
        text[-1], f" {label_of(text)}\n"
    )
    recipe = changed(
        ticket_recipe(), "distill.teacher.model=big", f"distill.teacher.endpoint={stub.url}",
        "distill.teacher.price_in=10", "distill.teacher.terms=Outputs may train models.",
    )  # fmt: skip

    result = distill(recipe, out=tmp_path / "run")

    assert (result.decision, result.exit_code) == ("learnt", 0)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [route["name"] for route in report["routes"]] == ["baseline", "distilled", "teacher"]
    by_name = {route["name"]: route for route in report["routes"]}
    assert by_name["distilled"]["value"] > by_name["baseline"]["value"]
    assert by_name["teacher"]["cost_per_1000"] == pytest.approx(1000 * 10 * 10 / 1e6)
    assert report["saved"]["memory"] is None and report["saved"]["time"] is None
    quality = by_name["distilled"]["value"] / by_name["teacher"]["value"]
    assert report["saved"]["quality"]["value"] == pytest.approx(quality)
    kept = [json.loads(x) for x in (tmp_path / "run" / "teacher.jsonl").read_text().splitlines()]
    gone = [json.loads(x) for x in (tmp_path / "run" / "dropped.jsonl").read_text().splitlines()]
    assert len(kept) + len(gone) == 90 and gone
    assert {one["reason"] for one in gone} == {
        "`nonsense` is not a label", "the teacher refused",
    }  # fmt: skip
    assert all(one["messages"][-1]["content"] in WORDS for one in kept), "space is taken off"
    assert kept[0]["teacher"]["terms"] and kept[0]["split"] == "train"
    recorded = {line["key"] for line in read_journal(tmp_path / "run" / "requests.jsonl")}
    assert {key for one in (*kept, *gone) for key in one["requests"]} <= recorded
    assert "Answer with exactly one of these labels" in stub.bodies[0]["messages"][0]["content"]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "The student has learnt" in page and "Gain over baseline" in page
    assert "Outputs may train models." in page and "burnish distill" in page
    assert open_local_engine(tmp_path / "run").name == result.training.id


def test_the_same_command_again_asks_and_trains_nothing(ticket_recipe, stub):
    stub.answer = label_of
    recipe = changed(
        ticket_recipe(), "distill.teacher.model=big", f"distill.teacher.endpoint={stub.url}"
    )
    first = distill(recipe)
    asked = sum(stub.asked.values())

    second = distill(recipe)

    assert sum(stub.asked.values()) == asked
    assert second.run.id != first.run.id and second.training == first.training
    assert second.as_dict()["saved"] == first.as_dict()["saved"]
    assert second.accounts["known_before"] == 90 + 45 and second.accounts["asked"] == 0


def test_a_local_run_teaches_and_the_three_numbers_are_those_of_the_files(
    own_models, ticket_recipe, tmp_path
):
    taught = train(ticket_recipe())
    recipe = changed(
        ticket_recipe(), f"distill.teacher.model={taught.run}", "distill.layers=2",
        "distill.fine_tuned=true", "train.method=full", "train.learning_rate=3e-3",
    )  # fmt: skip

    result = distill(recipe, out=tmp_path / "run")

    found = result.as_dict()
    by_name = {route["name"]: route for route in found["routes"]}
    assert list(by_name) == ["baseline", "fine_tuned", "distilled", "teacher"]
    assert found["saved"]["memory"] == pytest.approx(
        1 - by_name["distilled"]["memory_bytes"] / by_name["teacher"]["memory_bytes"]
    )
    seconds = [result.routes[name].latencies for name in ("distilled", "teacher")]
    assert found["saved"]["time"]["value"] == pytest.approx(1 - sum(seconds[0]) / sum(seconds[1]))
    assert 0 < found["agreement"] <= 1
    for name in by_name:
        assert len(load_predictions(tmp_path / "run" / f"predictions-{name}.jsonl")) == 45
    assert find_run(str(tmp_path / "run")).artifact.exists()
    assert "keeps" in result.as_text()


def test_rows_that_are_questions_alone_are_answered(ticket_recipe, write_rows, stub):
    stub.answer = label_of
    asked = write_rows("asked.jsonl", [{"prompt": row["text"]} for row in tickets(60, 3)])
    recipe = changed(
        ticket_recipe(), f"data.train=[{asked}]", "distill.teacher.model=big",
        f"distill.teacher.endpoint={stub.url}",
    )  # fmt: skip

    result = distill(recipe)

    assert result.decision == "learnt" and result.agreement() is None
    assert sum(result.counts()[part] for part in ("train", "validation")) == 60
    with pytest.raises(BadRecipe, match="fine_tuned=false"):
        distill(changed(recipe, "distill.fine_tuned=true"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ([], "No teacher is named"),
        (["distill.teacher.model=x", "distill.teacher.endpoint=http://127.0.0.1:9/v1",
          "train.objective=distill"], "text only"),
        (["distill.teacher.model=tiny", "distill.layers=9"], "has 2 layers"),
        (["distill.teacher.model=x", "distill.teacher.endpoint=http://127.0.0.1:9/v1",
          "distill.layers=2", "distill.layers_of=teacher"], "no layers to cut"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_is_asked(ticket_recipe, workspace, changes, says):
    with pytest.raises(BadRecipe, match=says):
        distill(changed(ticket_recipe(), *changes))

    assert not (workspace / "runs").exists()


def test_a_run_that_stopped_goes_on_in_its_folder_with_another_budget(
    ticket_recipe, stub, tmp_path
):
    stub.answer = label_of
    recipe = changed(
        ticket_recipe(), "distill.teacher.model=big", f"distill.teacher.endpoint={stub.url}",
        "distill.teacher.max_new_tokens=1", "distill.teacher.concurrency=1",
    )  # fmt: skip
    with pytest.raises(TeacherStopped):
        distill(changed(recipe, "distill.teacher.budget_tokens=1"), out=tmp_path / "run")

    result = distill(changed(recipe, "distill.teacher.retries=1"), out=tmp_path / "run")

    assert result.run.path == tmp_path / "run" and result.run.recipe.distill.teacher.retries == 1
    with pytest.raises(AlreadyThere):
        distill(recipe, out=tmp_path / "run")


def test_a_student_learns_to_think_and_is_measured_by_what_it_says_then(
    ticket_recipe, stub, tmp_path
):
    stub.answer = lambda text: f"<think>\nhm\n</think>\n\n{label_of(text)}"
    recipe = changed(
        ticket_recipe(), "distill.teacher.model=big", f"distill.teacher.endpoint={stub.url}",
        "distill.reasoning=ask", "train.method=full", "train.learning_rate=3e-3", "train.epochs=8",
    )  # fmt: skip

    result = distill(recipe, out=tmp_path / "run")

    told = stub.bodies[0]["messages"][0]["content"]
    assert "one of these labels" in told and "Think step by step" in told
    assert {body["max_tokens"] for body in stub.bodies} == {16 + 512}, "in the exam too"
    (kept, *_) = (tmp_path / "run" / "teacher.jsonl").read_text().splitlines()
    assert json.loads(kept)["messages"][-1]["reasoning_content"] == "hm"
    found = {name: one.scores for name, one in result.routes.items()}
    assert found["teacher"].interval.value > 0.9 and found["distilled"].interval.value > 0.5
    assert {one.thought for one in found["distilled"].predictions} >= {"hm"}
    assert not any(one.thought for one in found["baseline"].predictions)
    again = evaluate_source(ticket_recipe(), str(tmp_path / "run" / "artifact"))
    assert again.scores.values == found["distilled"].values, "as it was measured"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("train.objective=classify", "classifying student writes no reasoning"),
        ("distill.pairs=student", "Answer pairs have no reasoning"),
        ("distill.questions_per_passage=2", "documents have no reasoning"),
    ],
)
def test_what_has_no_thoughts_is_refused_where_they_are_to_be_kept(ticket_recipe, change, why):
    recipe = changed(
        ticket_recipe(), "distill.teacher.model=tiny", "distill.reasoning=keep", change
    )

    with pytest.raises(BadRecipe, match=why):
        distill(recipe)
