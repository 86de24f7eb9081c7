"""What the rules of thumb expect of the data, and how the measurement answers them."""

import pytest

from burnish.compare.expectations import RULES, check_expectations, list_expectations
from burnish.data.load import load
from tests.compare.test_verdict import hits

FIXED, FEW, SHORTER = (RULES[place].statement for place in (2, 3, 4))


def says(recipe):
    return [one.says for one in list_expectations(recipe, load(recipe))]


def test_they_are_read_off_the_recipe_and_the_rows(ticket_recipe, tmp_path):
    assert says(ticket_recipe()) == [FIXED, FEW, SHORTER]
    assert says(ticket_recipe("task.kind=generation")) == [FEW, SHORTER]
    documents = f"rag.documents=[{tmp_path}]"
    assert RULES[0].statement in says(ticket_recipe(documents))
    assert RULES[1].statement in says(ticket_recipe(documents, "task.kind=qa"))


@pytest.mark.parametrize(
    ("tuned", "examples", "fixed", "few"),
    [
        (150, 90, "confirmed", "contradicted"),
        (90, 150, "contradicted", "open"),
        (92, 90, "open", "open"),
        (30, 30, "open", "confirmed"),
    ],
)
def test_only_more_than_luck_confirms_or_contradicts(ticket_recipe, tuned, examples, fixed, few):
    recipe = ticket_recipe()
    # Some questions only the one gets right, some only the other.
    ours = hits(tuned, begin=min(60, 200 - tuned))
    routes = {"base": hits(80), "few_shot": hits(examples), "fine_tuned": ours}

    found = check_expectations(list_expectations(recipe, load(recipe)), routes, 0.02, 0.95)

    assert [one.outcome for one in found[:2]] == [fixed, few]
    assert found[2].outcome == "contradicted", "as many tokens are not fewer"


def test_a_rule_about_a_route_that_wasnt_asked_stays_unmeasured(ticket_recipe):
    recipe = ticket_recipe()

    found = check_expectations(
        list_expectations(recipe, load(recipe)), {"base": hits(80)}, 0.02, 0.95
    )

    assert {one.outcome for one in found} == {"not measured"}
