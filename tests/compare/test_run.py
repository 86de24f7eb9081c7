"""`compare` from rows to verdict, on a tiny model that really trains."""

import json
import os
import signal
from dataclasses import replace

import pytest

from burnish.compare import runner as models
from burnish.compare.run import compare
from burnish.core.errors import AlreadyThere, AuditFailed
from burnish.core.recipe.recipe import load_recipe
from burnish.core.runs import find_run, list_runs
from burnish.core.stats import paired_test
from burnish.data.frozen_split import thaw
from burnish.data.load import load
from burnish.evaluate import latency
from burnish.evaluate.scoring import load_predictions
from burnish.models.local_models import Resolved
from burnish.train.cached_run import cached_run_folder
from tests.fixtures.worker_process import in_child

FEW = ("compare.forgetting=false",)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Three single requests are enough here."""
    monkeypatch.setattr(latency, "_QUESTIONS", 3)


def test_what_can_be_learnt_ships_with_a_full_run_folder(ticket_recipe, tmp_path):
    result = compare(ticket_recipe(), out=tmp_path / "run")

    assert (result.verdict.decision, result.exit_code) == ("ship", 0)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert {"run", "verdict", "routes", "forgetting", "inferred"} <= set(report)
    assert {"decision", "winner", "reason"} <= set(report["verdict"])
    assert [route["name"] for route in report["routes"]] == ["base", "few_shot", "fine_tuned"]
    for route in report["routes"]:
        found = load_predictions(tmp_path / "run" / f"predictions-{route['name']}.jsonl")
        assert len(found) == route["n"] == 45
        assert sum(item.score for item in found) / 45 == pytest.approx(route["value"])
        assert route["ci"][0] <= route["value"] <= route["ci"][1]
        assert route["cost_per_1000"] > 0 and route["latency_p50_s"] > 0
    assert report["routes"][1]["tokens_in"] > report["routes"][0]["tokens_in"]
    assert report["routes"][2]["tokens_in"] < report["routes"][0]["tokens_in"]
    assert report["forgetting"]["before"]["n"] == 50
    routes = {route["name"]: route for route in report["routes"]}
    costs = report["costs"]
    assert (
        costs["training"] == pytest.approx(costs["training_seconds"] / 3600 * 0.10)
        and costs["training"]
    )
    assert costs["rival"] == "few_shot" and costs["tokens_of_rival"] > 2 * costs["tokens"]
    saved = costs["saved"]["value"] * routes["few_shot"]["cost_per_1000"]
    assert costs["saved_per_1000"] == pytest.approx(saved)
    assert costs["saved"]["low"] <= costs["saved"]["value"] <= costs["saved"]["high"]
    assert costs["break_even"] is None, "three pairs of times tell nothing"
    assert find_run(str(tmp_path / "run")).artifact.exists()
    assert "Ship" in result.as_text()


def test_the_page_shows_the_verdict_and_how_to_repeat_it(ticket_recipe, tmp_path):
    result = compare(ticket_recipe(*FEW, "compare.currency=EUR"), out=tmp_path / "run")

    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert result.verdict.headline in page and "EUR" in page
    assert "Rules of thumb" in page and "contradicted" in page
    assert "What it costs" in page and "validation loss" in page and "burnish compare" in page
    recipe = load_recipe(tmp_path / "run" / "recipe.yaml")
    assert recipe.task.kind == "classification" and recipe.task.labels, "what was inferred"
    again = compare(recipe)
    assert again.verdict == result.verdict


def test_a_hopeless_route_is_given_up_and_the_verdict_stays(ticket_recipe, tmp_path, monkeypatch):
    whole = compare(ticket_recipe(*FEW, test=90))
    # A fourth of the 90 questions is enough for a look.
    monkeypatch.setattr(models, "_LOOK", 22)

    result = compare(ticket_recipe(*FEW, test=90), out=tmp_path / "run")

    assert result.stopped_early == {"base": 22, "few_shot": 22}
    assert list(result.routes) == ["base", "few_shot", "fine_tuned"]
    assert result.routes["fine_tuned"].scores == whole.routes["fine_tuned"].scores
    assert result.verdict.decision == whole.verdict.decision == "ship"
    found = load_predictions(tmp_path / "run" / "predictions-base.jsonl")
    known = {item.row: item.answer for item in whole.routes["base"].scores.predictions}
    assert all(known[item.row] == item.answer for item in found) and len(found) == 22
    assert "Given up early" in result.as_text()
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "base after 22 drawn questions" in page
    asked = compare(ticket_recipe(*FEW, "compare.stop_hopeless=false", test=90))
    assert asked.stopped_early == {}


def test_other_seeds_are_trained_measured_and_told(ticket_recipe, tmp_path):
    one = compare(ticket_recipe(*FEW))
    result = compare(ticket_recipe(*FEW, "compare.seeds=2"), out=tmp_path / "run")

    (first, own), (second, other) = result.seeds.items()
    assert (first, second) == (0, 1)
    assert own == one.routes["fine_tuned"].scores.interval.value
    found = load_predictions(tmp_path / "run" / "predictions-fine_tuned-seed-1.jsonl")
    assert sum(item.score for item in found) / len(found) == pytest.approx(other)
    assert result.verdict.gain.gain.low <= one.verdict.gain.gain.low
    assert result.training == one.training, "what ships is the training of train.seed"
    told = f"Trained 2 times: {own:.1%} (seed 0), {other:.1%} (seed 1)."
    assert told in result.as_text()
    assert told in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["seeds"] == {"0": own, "1": other}


def test_labels_that_mean_nothing_do_not_ship(ticket_recipe):
    result = compare(ticket_recipe(*FEW, shuffled=True))

    assert result.verdict.decision in ("dont_fine_tune", "not_enough_evidence")
    assert result.exit_code == 1


def test_a_second_run_asks_and_trains_nothing_again(ticket_recipe, workspace):
    first = compare(ticket_recipe())
    kept = {file: file.stat().st_mtime_ns for file in workspace.glob("cache/**/*.json*")}
    trained = first.routes["fine_tuned"].scores.predictions

    second = compare(ticket_recipe("compare.least_gain=0.9"))

    now = {file: file.stat().st_mtime_ns for file in workspace.glob("cache/**/*.json*")}
    assert now == kept
    assert second.routes["fine_tuned"].scores.predictions == trained, "timings too"
    assert second.training == first.training
    assert second.verdict.decision != "ship", "only the rule has changed"


def test_other_training_settings_train_again_and_keep_the_bases_answers(ticket_recipe):
    first = compare(ticket_recipe(*FEW))
    second = compare(ticket_recipe(*FEW, "train.epochs=1"))

    assert second.training != first.training
    base = [run.routes["base"].scores.predictions for run in (first, second)]
    assert base[0] == base[1]


@pytest.mark.parametrize("when", ["answering", "training"])
def test_killed_it_goes_on_in_the_same_folder_to_the_same_verdict(
    ticket_recipe, tmp_path, workspace, monkeypatch, when
):
    recipe = ticket_recipe(*FEW, "train.checkpoint_every=3")

    def first():
        die(when)
        compare(recipe, out=tmp_path / "run")

    assert in_child(first) == -signal.SIGKILL
    assert not (tmp_path / "run" / "report.json").exists()
    left = {file: file.stat().st_mtime_ns for file in workspace.glob("cache/**/*.jsonl")}

    result = compare(recipe, out=tmp_path / "run")

    assert result.verdict.decision == "ship"
    assert left and all(file.stat().st_mtime_ns == before for file, before in left.items())
    monkeypatch.setenv("BURNISH_HOME", str(tmp_path / "elsewhere"))
    undisturbed = compare(recipe)
    assert undisturbed.verdict == result.verdict
    weights = [find_run(str(one.run.path)).artifact for one in (result, undisturbed)]
    tensors = [(folder / "adapter_model.safetensors").read_bytes() for folder in weights]
    assert tensors[0] == tensors[1]


def die(when):
    """Kill this process, as a power cut would, on the way."""
    from burnish.evaluate import prediction_cache as answers
    from burnish.train.trainers import causal_lm as language

    module, name = {
        "answering": (answers, "save_predictions"),
        "training": (language, "save_artifact"),
    }[when]
    real, calls = getattr(module, name), 0

    def call(*arguments):
        nonlocal calls
        calls += 1
        if calls == 2 or when == "training":
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    setattr(module, name, call)


def test_a_folder_that_holds_another_result_is_not_written_over(ticket_recipe, tmp_path):
    compare(ticket_recipe("compare.routes=[base]"), out=tmp_path / "run")

    with pytest.raises(AlreadyThere, match="already exists"):
        compare(ticket_recipe("compare.routes=[base]"), out=tmp_path / "run")


def test_other_settings_are_another_training_and_a_default_that_is_spelt_out_is_none(
    ticket_recipe, tiny
):
    def name(*changes):
        recipe = ticket_recipe(*changes)
        return cached_run_folder(Resolved.of(recipe), load(recipe)).name

    usual = name()
    changes = ["method=dora", "method=qlora", "objective=orpo", "method.rank=3", "learning_rate=1"]

    assert len({usual, *(name(f"train.{change}") for change in changes)}) == 1 + len(changes)
    assert name("train.method=lora", "train.max_grad_norm=1.0") == usual


def test_without_the_fine_tune_nothing_is_trained(ticket_recipe, workspace):
    result = compare(ticket_recipe("compare.routes=[base, few_shot]"))

    assert result.training is None
    better = {"few_shot": paired_test([1] * 40, [0] * 40)}
    worse = {"few_shot": paired_test([0] * 40, [1] * 40)}
    codes = [replace(result, tests=tests).exit_code for tests in (better, worse)]
    assert codes == [0, 1], "no fine-tune to ship: any better route will do"
    assert replace(result, tests=better).as_dict()["beats_incumbent"] == ["few_shot"]
    assert not list(workspace.glob("runs/train-*"))


def test_rows_that_would_train_wrongly_stop_it_before_the_first_question(ticket_recipe, workspace):
    with pytest.raises(AuditFailed):
        compare(ticket_recipe("train.max_length=12"))

    assert not list_runs() and not (workspace / "cache").exists()


def test_answers_that_are_texts_are_compared_too(tiny, write_rows, ticket_recipe):
    rows = [
        {"prompt": f"say {a} {b}", "completion": f"{b} {a} {b} {a} and {number} apple pear plum"}
        for number, (a, b) in enumerate(
            (a, b) for a in ("red", "green", "blue", "one") for b in ("two", "plum", "pear", "six")
        )
    ]
    recipe = ticket_recipe(
        *FEW, "task.kind=generation", "evaluate.metric=chrf", "evaluate.max_new_tokens=12",
        f"data.train=[{write_rows('a.jsonl', rows[:12])}]",
        f"data.test=[{write_rows('b.jsonl', rows[12:])}]",
    )  # fmt: skip

    result = compare(recipe)

    assert result.verdict.decision in ("dont_fine_tune", "not_enough_evidence", "ship")
    route = result.as_dict()["routes"][0]
    assert route["metric"] == "chrf" and "corpus_bleu" in route and route["n"] == 4


def test_groups_that_are_named_later_count_although_the_answers_are_there(ticket_recipe):
    recipe = ticket_recipe(*FEW, "compare.routes=[base, few_shot]")
    first = compare(recipe).routes["base"].scores
    dataset = load(recipe)
    rows = [replace(row, group=f"customer {n // 15}") for n, row in enumerate(dataset.split.test)]
    split = replace(dataset.split, test=tuple(rows))
    second = compare(recipe, replace(dataset, split=split)).routes["base"].scores

    assert first.values == second.values
    assert {one.group for one in second.predictions} == {row.group for row in rows}
    wide, narrow = (found.interval.high - found.interval.low for found in (second, first))
    assert wide > narrow


@pytest.mark.parametrize("part", ["weight", "tools", "item"])
def test_a_training_is_not_used_again_when_its_rows_have_changed(ticket_recipe, part):
    recipe = ticket_recipe()
    dataset = load(recipe)
    row = dataset.split.train[0]
    changed = {
        "weight": replace(
            row, messages=(*row.messages[:-1], replace(row.messages[-1], weight=0.0))
        ),
        "tools": replace(row, tools=({"type": "function", "function": {"name": "look"}},)),
        "item": replace(row, item={"reference": "other"}),
    }[part]
    split = replace(dataset.split, train=(changed, *dataset.split.train[1:]))

    resolved = Resolved.of(recipe)
    usual = cached_run_folder(resolved, dataset)
    assert cached_run_folder(resolved, replace(dataset, split=split)) != usual
    more = dataset.task.model_copy(update={"labels": (*dataset.task.labels, "other")})
    assert cached_run_folder(resolved, replace(dataset, task=more)) != usual


def test_following_the_advice_makes_the_next_look_stricter(ticket_recipe, workspace):
    recipe = ticket_recipe(*FEW, test=24)
    first, again = compare(recipe), compare(recipe)
    recipe = ticket_recipe(*FEW, test=45)
    thaw(recipe.data)
    more = compare(recipe)

    assert (first.verdict.look, again.verdict.look, more.verdict.look) == (1, 1, 2)
    assert more.verdict.confidence > first.verdict.confidence
    assert len(list((workspace / "looks").glob("*.json"))) == 2
