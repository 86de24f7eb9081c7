"""`evaluate`: a model as it is, or a run as it was trained, on the frozen test split."""

import json

import pytest

from burnish.core.errors import AlreadyThere, BadData
from burnish.core.recipe.recipe import make_recipe
from burnish.data.load import load
from burnish.evaluate.run import evaluate_source
from burnish.evaluate.scoring import load_predictions
from burnish.train.run import train


def test_a_base_model_is_measured_and_leaves_its_predictions(ticket_recipe, tmp_path):
    result = evaluate_source(ticket_recipe(test=30), out=tmp_path / "run")

    found = load_predictions(tmp_path / "run" / "predictions.jsonl")
    assert len(found) == 30 == result.scores.interval.n
    assert {item.answer for item in found} <= {"account", "delivery", "refund"}
    assert result.perplexity > 1 and result.latencies
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report == json.loads(json.dumps(result.as_dict()))
    with pytest.raises(AlreadyThere):
        evaluate_source(ticket_recipe(test=30), out=tmp_path / "run")


def test_a_trained_run_is_asked_as_it_was_trained_also_on_new_rows(ticket_recipe, write_rows):
    recipe = ticket_recipe("task.prompt=Sort the ticket.")
    report = train(recipe, load(recipe))
    new = [{"prompt": "I want my money back red red", "completion": "refund"}] * 2
    new += [{"prompt": "the login does not work red red", "completion": "account"}]
    test = write_rows("new.jsonl", new)
    plain = make_recipe({"model": {"name": "tiny"}, "data": {"test": [str(test)]}})

    result = evaluate_source(plain, report.run)

    assert result.scores.metric == "accuracy", "the task is the one that was trained"
    assert result.scores.interval.value == 1
    assert result.run.recipe.task.prompt == "Sort the ticket."
    assert "delivery" in result.run.recipe.task.labels


def test_a_smoke_run_draws_its_rows_from_the_whole_file(ticket_recipe):
    recipe = ticket_recipe("evaluate.max_rows=12", test=30)

    rows = [item.row for item in evaluate_source(recipe).scores.predictions]

    lines = [int(row.rpartition(":")[2]) for row in rows]
    assert len(lines) == 12 and max(lines) > 15


def test_plain_text_has_no_answers_to_score(tiny, write_rows):
    test = write_rows("text.jsonl", [{"text": "once upon a time"}, {"text": "the end"}])
    recipe = make_recipe({"model": {"name": tiny.name}, "data": {"test": [str(test)]}})

    with pytest.raises(BadData, match="no question"):
        evaluate_source(recipe)
