"""Scores by type of question: which route for what."""

import json
from dataclasses import replace

import pytest

from burnish.compare.by_type import format_types, scores_by_type
from burnish.compare.run import compare
from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Interval, Prediction, Row, Scores
from burnish.core.stats import mean_interval
from burnish.data.load import load
from burnish.evaluate import latency
from tests.fixtures.tickets import tickets


def scores(*values):
    found = [
        Prediction(f"rows:{n}", "", "", "", value, 1, 1, 0.1) for n, value in enumerate(values)
    ]
    return Scores("accuracy", found, Interval(0.5, 0, 1, len(values)))


def test_each_type_has_each_route_s_mean_and_interval():
    kinds = ("style", "fact", None, "fact", "style", "fact")
    rows = [Row(type=kind, file="rows", line=n) for n, kind in enumerate(kinds)]
    routes = {"retrieval": scores(0, 1, 0, 1, 0, 1), "fine_tuned": scores(1, 0, 1, 1, 0.5, 0)}

    found = scores_by_type(routes, rows, 0.95, 0)

    assert list(found) == ["fact", "style"]
    fact, style = (found[kind].scores for kind in ("fact", "style"))
    assert list(fact) == ["retrieval", "fine_tuned"]
    assert fact["retrieval"] == mean_interval([1, 1, 1])
    assert fact["fine_tuned"] == mean_interval([0, 1, 0])
    assert style["fine_tuned"].value == 0.75 and style["fine_tuned"].n == 2
    assert scores_by_type(routes, [Row()] * 6, 0.95, 0) == {}


def test_who_leads_a_type_is_told_with_the_paired_gain_over_the_next():
    rows = [Row(type="fact" if n < 30 else "style", file="rows", line=n) for n in range(60)]
    routes = {
        "base": scores(*[0] * 60),
        "retrieval": scores(*[1] * 25, *[0] * 35),
        "fine_tuned": scores(*[0] * 30, *[1, 0] * 15),
        "teacher": scores(*[1] * 60),
    }

    found = scores_by_type(routes, rows, 0.95, 0)

    fact, style = found["fact"].lead, found["style"].lead
    assert (fact.route, style.route, style.rival) == ("retrieval", "fine_tuned", "base")
    assert fact.gain.value == pytest.approx(25 / 30) and fact.is_sure and style.is_sure
    assert "retrieval leads base by +83.3 points" in format_types(found)
    close = scores_by_type(
        {"base": scores(1, 0, 1), "few_shot": scores(1, 1, 1)}, rows[:3], 0.95, 0
    )
    assert not close["fact"].lead.is_sure and "not settled" in format_types(close)
    assert scores_by_type({"base": scores(1, 0)}, rows[:2], 0.95, 0)["fact"].lead is None
    level = scores_by_type({"base": scores(1, 0), "few_shot": scores(0, 1)}, rows[:2], 0.95, 0)
    assert level["fact"].lead is None


def test_a_route_that_was_given_up_is_scored_on_its_own_questions():
    rows = [Row(type=("fact", "style", "rare")[n % 3], file="rows", line=n) for n in range(6)]
    whole, part = scores(1, 1, 1, 0, 0, 0), scores(0, 1, 0, 1, 0, 1)
    part = replace(part, predictions=[part.predictions[n] for n in (3, 4)])

    found = scores_by_type({"base": part, "fine_tuned": whole}, rows, 0.95, 0)

    assert found["fact"].scores["base"] == mean_interval([1])
    assert found["style"].scores["base"] == mean_interval([0])
    assert list(found["rare"].scores) == ["fine_tuned"] and found["rare"].lead is None
    assert found["fact"].lead.route == "base" and found["fact"].lead.gain.n == 1


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
    assert set(report["leads"]) <= {"money", "things"}
    plain = compare(typed(), out=tmp_path / "other")
    assert plain.types == {} and "By type" not in plain.as_text()
    assert "By type" not in (tmp_path / "other" / "report.html").read_text()


def test_a_type_keeps_no_rows_together_and_a_column_without_one_is_refused(typed):
    with pytest.raises(BadRecipe, match="`kind`"):
        compare(typed("data.question_type=kind"))
    dataset = load(typed("data.question_type=about", "data.test=[]", "data.test_share=0.3"))
    kinds = [{row.type for row in rows} for rows in (dataset.split.train, dataset.split.test)]
    assert kinds[0] & kinds[1], "unlike data.group"
