"""What goes with what: the table, and all that is made from it."""

import itertools

import pytest

from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import Recipe, make_recipe
from burnish.core.recipe.support import (
    CHOICES,
    SUPPORT,
    allowed,
    conflicts,
    goes_together,
    require_model_support,
    support_table,
)

OBJECTIVES = {
    "custom": "{kind: custom, file: loss.py}",
    "on_policy": "{kind: distill, on_policy: 0.5, weight: 1}",
    "hidden_states": "{kind: distill, hidden: 1.0}",
}
FLAGS = {
    "gradient_checkpointing": "train.gradient_checkpointing=true",
    "compile": "train.compile=true",
    "group_by_prefix": "train.group_by_prefix=true",
    "quantization_aware": "train.quantization_aware=q4_0",
    "adamw_8bit": "train.optimizer=adamw_8bit",
    "dropout": "train.method.dropout=0.1",
    "start": "train.method.init_from=last",
    "tracker": "train.tracker=mlflow",
}


def is_read(*changes):
    try:
        make_recipe({}, changes)
    except BadRecipe as error:
        assert "doesn't go with" in error.what, error.what
        return False
    return True


def test_the_table_knows_every_objective_method_route_and_format_of_the_recipe():
    schema = Recipe.model_json_schema()["$defs"]
    routes = schema["Compare"]["properties"]["routes"]["items"]["enum"]

    assert set(CHOICES["route"]) == set(routes)
    assert set(CHOICES["format"]) == set(schema["Export"]["properties"]["to"]["enum"])
    assert set(CHOICES["parallel"]) == set(schema["Train"]["properties"]["parallel"]["enum"])
    mapping = schema["Train"]["properties"]["objective"]["discriminator"]["mapping"]
    assert set(CHOICES["objective"]) == set(mapping)
    assert set(CHOICES["method"]) == set(
        schema["Train"]["properties"]["method"]["discriminator"]["mapping"]
    )


@pytest.mark.parametrize("rule", SUPPORT, ids=lambda rule: f"{rule.choices[0]}-{rule.other}")
def test_a_rule_names_known_choices_and_excludes_some_but_not_all(rule):
    assert set(rule.choices) <= set(CHOICES[rule.axis])
    assert {*rule.only, *rule.but} <= set(CHOICES[rule.other])
    for choice in rule.choices:
        fitting = [value for value in CHOICES[rule.other] if not rule.excludes(choice, value)]
        assert 0 < len(fitting) < len(CHOICES[rule.other])


@pytest.mark.parametrize("objective", CHOICES["objective"])
@pytest.mark.parametrize("method", CHOICES["method"])
def test_a_recipe_is_read_as_the_table_says(objective, method):
    changes = [f"train.objective={OBJECTIVES.get(objective, objective)}", f"train.method={method}"]
    fits = goes_together("objective", objective, "method", method)

    assert is_read(*changes) == fits
    for parallel in CHOICES["parallel"]:
        divides = all(
            goes_together(axis, choice, "parallel", parallel)
            for axis, choice in (("objective", objective), ("method", method))
        )
        assert is_read(*changes, f"train.parallel={parallel}") == (fits and divides), parallel


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("objective", CHOICES["objective"])
def test_a_setting_goes_with_the_objectives_of_the_table(objective, flag):
    changes = [f"train.objective={OBJECTIVES.get(objective, objective)}", FLAGS[flag]]

    assert is_read(*changes) == goes_together("objective", objective, "flag", flag)


@pytest.mark.parametrize("flag", ["on_policy", "hidden_states"])
@pytest.mark.parametrize("parallel", CHOICES["parallel"])
def test_a_teacher_in_memory_is_asked_by_one_process(flag, parallel):
    changes = [f"train.objective={OBJECTIVES[flag]}", f"train.parallel={parallel}"]

    assert is_read(*changes) == (parallel == "none")


def test_what_is_allowed_is_the_same_from_either_side():
    for axis, other in itertools.permutations(CHOICES, 2):
        for choice in CHOICES[axis]:
            for value in allowed(axis, choice, other):
                assert choice in allowed(other, value, axis)


@pytest.mark.parametrize("kind", CHOICES["model"])
def test_a_model_is_refused_what_its_kind_is_not_trained_with(kind):
    for objective in CHOICES["objective"]:
        choices = {"objective": (objective,)}
        if goes_together("model", kind, "objective", objective):
            require_model_support(choices, "mine", kind)
            continue
        with pytest.raises(BadRecipe, match=f"mine is an? .* objective {objective}") as refused:
            require_model_support(choices, "mine", kind)
        assert "Set train.objective to one of" in refused.value.fix


def test_a_conflict_says_what_the_choice_goes_with_instead():
    (found,) = conflicts({"objective": ("dpo",), "parallel": ("zero3",)})

    assert found.message.startswith("objective dpo doesn't go with parallel zero3")
    assert found.fix == "It goes with parallel none, ddp, zero1, zero2."


def test_the_docs_table_has_a_line_for_every_objective():
    lines = support_table().splitlines()

    assert len(lines) == 2 + len(CHOICES["objective"])
    assert "| `grpo` | all | `none` |" in support_table()
