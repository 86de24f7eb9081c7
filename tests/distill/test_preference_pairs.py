"""Pairs of answers out of a distillation: rows that preference objectives read."""

import json

import pytest

from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import make_recipe
from burnish.data.load import load
from burnish.distill.run import distill
from tests.distill.test_run import changed, label_of
from tests.fixtures.tickets import WORDS


def taught_by(stub, recipe, *changes):
    named = ["distill.teacher.model=big", f"distill.teacher.endpoint={stub.url}"]
    return changed(recipe, *named, *changes)


def pairs_of(result):
    return [json.loads(line) for line in (result.run.path / "pairs.jsonl").read_text().splitlines()]


def test_a_student_learns_to_prefer_the_teachers_answer_to_its_own(ticket_recipe, stub):
    stub.answer = label_of
    recipe = taught_by(
        stub, ticket_recipe(), "distill.pairs=student", "train.objective=dpo", "train.epochs=2"
    )

    result = distill(recipe)

    pairs = pairs_of(result)
    assert pairs and all(pair["chosen"] in WORDS for pair in pairs)
    assert all(pair["chosen"] != pair["rejected"] for pair in pairs)
    assert all(pair["scores"][0] > pair["scores"][1] for pair in pairs)
    assert len(pairs) < 90, "where the student was right already there is no pair"
    assert result.training.recipe.train.objective.kind == "dpo"
    file = result.run.path / "pairs.jsonl"
    data = {"train": [str(file)], "test_share": 0.0, "near_duplicate": 1.0}
    rows = load(make_recipe({"model": {"name": "tiny"}, "data": data})).split
    read = (*rows.train, *rows.validation)
    assert {row.rejected.content for row in read} <= {pair["rejected"] for pair in pairs}
    assert all(row.rejected for row in read) and len(read) > 0.5 * len(pairs)


def test_of_two_samples_the_better_one_is_chosen(ticket_recipe, stub):
    count = {}

    def answer(text):
        count[text] = count.get(text, 0) + 1
        right = (len(text) % 2 == 0) == (count[text] == 1)
        return label_of(text) if right else "refund"

    stub.answer = answer
    recipe = taught_by(
        stub, ticket_recipe(), "distill.pairs=teacher", "distill.teacher.temperature=0.8"
    )

    result = distill(recipe)

    pairs = pairs_of(result)
    assert pairs and all(
        pair["chosen"] == label_of(pair["prompt"][-1]["content"]) for pair in pairs
    )
    assert all(pair["rejected"] == "refund" != pair["chosen"] for pair in pairs)
    first, second = (
        {body["seed"] for body in some} for some in (stub.bodies[:90], stub.bodies[90:180])
    )
    assert first == {0} and second == {1}
    assert result.training.recipe.train.objective.kind == "sft", "the pairs are there for later"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["train.objective=dpo"], "distill.pairs=student"),
        (["distill.pairs=teacher"], "temperature 0 are the same"),
        (
            ["distill.pairs=teacher", "distill.teacher.temperature=1", "distill.self_instruct=8"],
            "kind: file",
        ),
    ],
)
def test_pairs_that_cannot_be_are_refused_before_anything_is_asked(
    ticket_recipe, stub, changes, says
):
    with pytest.raises(BadRecipe, match=says):
        distill(taught_by(stub, ticket_recipe(), *changes))

    assert not stub.asked
