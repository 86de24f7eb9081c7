"""The general set is sound, and a loss on it is told from luck."""

from collections import Counter

import pytest

from burnish.compare.forgetting import load_general_set, measure_forgetting
from burnish.core.recipe.data import Task
from burnish.core.recipe.evaluate import Evaluate
from burnish.engines.local.open import open_local_engine
from burnish.evaluate.scoring import evaluate
from tests.stubs.rule_engine import RuleEngine

TASK = Task(kind="classification")


def scores(rule):
    return evaluate(RuleEngine(rule), load_general_set(), TASK, Evaluate())


def right(prompt):
    """Knows all answers."""
    asked = load_general_set()
    known = {p.messages: row.answer for row, p in zip(asked.rows, asked.prompts, strict=True)}
    return known[prompt.messages]


def test_the_set_has_fifty_questions_of_four_kinds_each_with_four_different_choices():
    asked = load_general_set()

    assert len(asked.rows) == 50
    assert min(Counter(row.group for row in asked.rows).values()) >= 10
    assert len({prompt.messages for prompt in asked.prompts}) == 50
    for row, prompt in zip(asked.rows, asked.prompts, strict=True):
        assert len(set(prompt.choices)) == 4 and row.answer in prompt.choices


def test_taking_the_first_choice_gives_no_more_than_chance():
    first = scores(lambda prompt: prompt.choices[0]).interval
    last = scores(lambda prompt: prompt.choices[-1]).interval

    assert first.low < 0.25 < first.high and last.low < 0.25 < last.high


def test_a_collapse_is_called_a_loss_and_names_what_was_lost():
    before, after = scores(right), scores(lambda prompt: prompt.choices[0])

    found = measure_forgetting(before, after)

    assert found.change.gain.high < 0 and "a real loss" in found.words
    assert len(found.lost) == 50 - sum(after.values)
    assert found.lost[0] in {row.prompt[-1].content for row in load_general_set().rows}


def test_one_answer_more_or_less_is_not_called_a_loss():
    before = scores(right)
    after = scores(lambda p: "Rome" if "France" in p.messages[0].content else right(p))

    found = measure_forgetting(before, after)

    assert found.lost == ("What is the capital of France? Answer with one word.",)
    assert "no loss that luck couldn't explain" in found.words
    assert found.visible > 0.02


@pytest.mark.model
def test_the_starter_model_knows_much_of_the_set_but_not_all(starter):
    engine = open_local_engine(starter.name)

    found = evaluate(engine, load_general_set(), TASK, Evaluate()).interval

    assert found.low > 0.4 and found.value < 0.9, "more than chance, and not all of it by heart"
