"""Questions that a teacher writes about passages: each with its source, or dropped."""

import json

import pytest

from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import make_recipe
from burnish.distill.document_questions import read_passages
from burnish.distill.run import distill
from burnish.evaluate import latency
from tests.stubs.teacher import Stub, serving

HEATER = (
    "# Heron\n\n## Heater\n\nThe heater of the rain gauge starts at two degrees and needs a cable "
    "of its own. It takes twelve watts and melts snow in the funnel within ten minutes.\n\n"
    "## Filter\n\nClean the filter of the gauge every four weeks in autumn, when leaves fall, and "
    "every two months in the rest of the year, with water and no soap at all.\n"
)


@pytest.fixture
def recipe_of(tiny, write_rows, tmp_path, stub):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "heron.md").write_text(HEATER)
    test = write_rows("test.jsonl", [
        {"prompt": f"At how many degrees does heater {n} start?", "completion": "two degrees"}
        for n in range(12)
    ])  # fmt: skip

    def build(*changes, documents=True):
        return make_recipe(
            {
                "task": {"kind": "qa", "prompt": "You know the gauge."},
                "model": {"name": tiny.name},
                "data": {"test": [str(test)], "near_duplicate": 1.0},
                "rag": {"documents": [str(tmp_path / "pages")]} if documents else {},
                "distill": {
                    "questions_per_passage": 3,
                    "teacher": {"model": "big", "endpoint": stub.url},
                },
                "train": {"max_steps": 4, "threads": 1},
            },
            changes,
        )

    return build


def said(text):
    """A teacher's three lines: a good one, one that was made up, and one that breaks off."""
    if "Read the passage" not in text:
        return "two degrees"
    if "Filter" in text:
        return (
            '{"question": "How often is the filter cleaned in autumn?", "answer": "every four '
            'weeks"}\n{"question": "Who sells filters?", "answer": "Any shop in Bristol"}\n'
            '{"question": "With wh'
        )
    return (
        '```json\n{"question": "What does the heater take?", "answer": "twelve watts"}\n'
        '{"question": "At how many degrees does heater 3 start?", "answer": "two degrees"}\n```'
    )


def test_written_rows_keep_their_source_and_what_is_not_in_it_is_dropped(
    recipe_of, stub, monkeypatch
):
    monkeypatch.setattr(latency, "_QUESTIONS", 3)
    stub.answer = said

    result = distill(recipe_of())

    kept, dropped = (
        [json.loads(line) for line in (result.run.path / name).read_text().splitlines()]
        for name in ("teacher.jsonl", "dropped.jsonl")
    )
    assert {one["messages"][-1]["content"] for one in kept} == {"every four weeks", "twelve watts"}
    assert all(one["messages"][0]["content"] == "You know the gauge." for one in kept)
    assert {one["source"].partition("heron.md")[2][:16] for one in kept} == {
        ": Heron > Heater", ": Heron > Filter",
    }  # fmt: skip
    assert {one["reason"] for one in dropped} == {
        "the answer isn't in the passage", "the question is in the test rows",
    }  # fmt: skip
    assert result.run.read("inputs.json")["documents"]
    assert result.routes["teacher"].scores.interval.value == 1.0
    asked = sum(stub.asked.values())
    distill(recipe_of())
    assert sum(stub.asked.values()) == asked


def test_passages_are_whole_and_cut_at_headings(recipe_of):
    found = read_passages(recipe_of())

    assert [passage.headings[-1] for passage in found] == ["Heater", "Filter"]
    assert "twelve watts" in found[0].text and "soap" in found[1].text


def test_questions_without_documents_are_refused(recipe_of, workspace):
    with pytest.raises(BadRecipe, match=r"rag\.documents"):
        distill(recipe_of(documents=False))
    assert not (workspace / "runs").exists()


def test_further_teachers_read_the_passage_and_have_to_agree(recipe_of, stub, monkeypatch):
    monkeypatch.setattr(latency, "_QUESTIONS", 3)
    stub.answer = said

    def reads(text):
        """Agrees on the heater, and finds nothing about the filter."""
        assert text.startswith("Read the passage") and "Write one JSON" not in text
        question = text.partition("Question: ")[2]
        return "twelve watts" if question.startswith("What does") else "not in the passage"

    with serving(Stub(answer=reads)) as second:
        result = distill(recipe_of(f"distill.teachers=[{{model: b, endpoint: '{second.url}'}}]"))
        asked = sum(second.asked.values())

    kept, dropped = (
        [json.loads(line) for line in (result.run.path / name).read_text().splitlines()]
        for name in ("teacher.jsonl", "dropped.jsonl")
    )
    assert [one["messages"][-1]["content"] for one in kept] == ["twelve watts"]
    assert [one["answers"] for one in kept[0]["opinions"]] == [["twelve watts"]]
    disputed = [one for one in dropped if one["reason"] == "the teachers disagree"]
    assert {*(one["answers"][0] for one in disputed)} == {"every four weeks", "two degrees"}
    assert all("key" in one for one in disputed), "a person may decide"
    assert asked == 3, "what was made up isn't asked about"
