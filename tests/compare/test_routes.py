"""Each route gets the fair chance that a competent person would give it."""

import pytest

from burnish.compare.routes import ROUTES, ComparisonSetup, choose_examples
from burnish.compare.verdict import TRAINED_ROUTES
from burnish.core.recipe.data import Task
from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Row, Split
from burnish.data.load import Dataset
from burnish.train.cached_run import train_cached
from tests.stubs.rule_engine import RuleEngine, row

LABELS = ("account", "delivery", "refund")
TRAIN = tuple(
    row(f"question number {n} about {LABELS[n % 3]}", LABELS[n % 3], n, LABELS[n % 3])
    for n in range(30)
)
TEST = tuple(row(f"test {n}", LABELS[n % 3], n, LABELS[n % 3]) for n in range(5))


@pytest.fixture
def setting():
    def build(*changes, train=TRAIN):
        task = Task(kind="classification", labels=LABELS)
        dataset = Dataset(Split(train, (), TEST), task, (), (), {})
        return ComparisonSetup(make_recipe({}, changes), dataset, TEST)

    return build


def words(prompt):
    return " ".join(message.content for message in prompt.messages)


def test_the_base_is_told_the_labels_and_the_fine_tune_is_not(setting):
    engine = RuleEngine(lambda prompt: "")
    base = ROUTES["base"].make_prompts(setting(), engine)
    tuned = ROUTES["fine_tuned"].make_prompts(setting(), engine)

    assert all("account, delivery, refund" in words(prompt) for prompt in base)
    assert [words(prompt) for prompt in tuned] == [f"test {n}" for n in range(5)]
    assert {prompt.choices for prompt in (*base, *tuned)} == {LABELS}
    fine_tunes = {
        name
        for name, route in ROUTES.items()
        if route.training_rows and route.train is train_cached
    }
    assert fine_tunes == set(TRAINED_ROUTES)


def test_examples_come_from_the_training_rows_only_one_of_each_label_first(setting):
    prompts = ROUTES["few_shot"].make_prompts(setting("compare.shots=3"), RuleEngine(lambda p: ""))

    for prompt, asked in zip(prompts, TEST, strict=True):
        shown = [message for message in prompt.messages if message.role == "assistant"]
        assert sorted(message.content for message in shown) == sorted(LABELS)
        assert prompt.messages[-1] == asked.prompt[-1]
        others = {message.content for message in prompt.messages[:-1]}
        assert others.isdisjoint(row.prompt[-1].content for row in TEST)


def test_examples_that_do_not_fit_the_context_are_left_out(setting):
    # A question takes 3 tokens, the labels 11, the answer 16, an example 8.
    engine = RuleEngine(lambda prompt: "", context_length=3 + 11 + 16 + 2 * 8)

    prompts = ROUTES["few_shot"].make_prompts(setting("compare.shots=8"), engine)

    engine.answer(prompts)
    assert {len(prompt.messages) for prompt in prompts} == {2 + 2 * 2}


def test_an_example_too_long_for_the_context_gives_its_place_to_others(setting):
    giant = row("word " * 500, "refund", 99, "refund")
    train = (*(giant for _ in range(6)), *TRAIN[:6])
    engine = RuleEngine(lambda prompt: "", context_length=400)

    prompts = ROUTES["few_shot"].make_prompts(setting("compare.shots=3", train=train), engine)

    engine.answer(prompts)
    assert {len(prompt.messages) for prompt in prompts} == {2 + 2 * 3}


def test_the_choice_of_examples_depends_on_the_seed_alone():
    chosen = choose_examples(TRAIN, 7, seed=1)

    assert chosen == choose_examples(TRAIN, 7, seed=1) != choose_examples(TRAIN, 7, seed=2)
    counts = [sum(row.label == label for row in chosen) for label in LABELS]
    assert len(chosen) == 7 and max(counts) - min(counts) <= 1
    assert len(choose_examples(TRAIN[:2], 8, seed=1)) == 2
    assert choose_examples([*TRAIN[:2], Row(text="Learnt whole.")], 8, seed=1) == choose_examples(
        TRAIN[:2], 8, seed=1
    ), "plain text has no question to show"
