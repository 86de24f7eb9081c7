"""Scores by type of question: which route for what."""

import json

import pytest

from burnish.compare.run import compare
from burnish.compare.types import by_type
from burnish.core.errors import BadRecipe
from burnish.core.recipe import make_recipe
from burnish.core.records import Interval, Prediction, Row, Scores
from burnish.core.stats import mean_interval
from burnish.data.load import load
from burnish.evaluate import latency
from tests.tickets import tickets


def scores(*values):
    found = [Prediction(str(n), "", "", "", value, 1, 1, 0.1) for n, value in enumerate(values)]
    return Scores("accuracy", found, Interval(0.5, 0, 1, len(values)))


def test_each_type_has_each_route_s_mean_and_interval():
    rows = [Row(type=kind) for kind in ("style", "fact", None, "fact", "style", "fact")]
    routes = {"retrieval": scores(0, 1, 0, 1, 0, 1), "fine_tuned": scores(1, 0, 1, 1, 0.5, 0)}

    found = by_type(routes, rows, 0.95, 0)

    assert list(found) == ["fact", "style"] and list(found["fact"]) == ["retrieval", "fine_tuned"]
    assert found["fact"]["retrieval"] == mean_interval([1, 1, 1])
    assert found["fact"]["fine_tuned"] == mean_interval([0, 1, 0])
    assert found["style"]["fine_tuned"].value == 0.75 and found["style"]["fine_tuned"].n == 2
    assert by_type(routes, [Row()] * 6, 0.95, 0) == {}


@pytest.fixture
def typed(tiny, write_rows):
    """A recipe whose test rows say in `about` what they are about; some don't."""

    def build(*changes):
        def rows(count, seed):
            made = tickets(count, seed)
            return [{**row, "about": ("money", "things", "")[n % 3]} for n, row in enumerate(made)]

        files = {
            "train": [str(write_rows("train.jsonl", rows(30, 1)))],
            "test": [str(write_rows("test.jsonl", rows(12, 2)))],
        }
        values = {"model": {"name": tiny.name}, "data": {**files, "near_duplicate": 1.0}}
        return make_recipe(values, [
            "compare.routes=[base,few_shot]", "compare.forgetting=false", "compare.shots=2",
            "model.dtype=float32", *changes,
        ])  # fmt: skip

    return build


def test_a_comparison_shows_its_routes_by_type(typed, tmp_path, monkeypatch):
    monkeypatch.setattr(latency, "_QUESTIONS", 1)

    result = compare(typed("data.question_type=about"), out=tmp_path / "run")

    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert {kind: list(found) for kind, found in report["types"].items()} == {
        "money": ["base", "few_shot"], "things": ["base", "few_shot"],
    }  # fmt: skip
    assert report["types"]["money"]["base"]["n"] == 4
    assert "By type of question" in (tmp_path / "run" / "report.html").read_text()
    assert "things (4 questions)" in result.as_text()
    plain = compare(typed(), out=tmp_path / "other")
    assert plain.types == {} and "By type" not in plain.as_text()
    assert "By type" not in (tmp_path / "other" / "report.html").read_text()


def test_a_type_keeps_no_rows_together_and_a_column_without_one_is_refused(typed):
    with pytest.raises(BadRecipe, match="`kind`"):
        compare(typed("data.question_type=kind"))
    dataset = load(typed("data.question_type=about", "data.test=[]", "data.test_share=0.3"))
    kinds = [{row.type for row in rows} for rows in (dataset.split.train, dataset.split.test)]
    assert kinds[0] & kinds[1], "unlike data.group"
