"""Rows are learnt in an order of their own, but those that share a history in one step."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import make_recipe
from burnish.core.recipe.train import Train
from burnish.models.chat_template import TokenizedRow
from burnish.train.batching.micro_batches import count_computed_tokens, micro_batches
from burnish.train.batching.sampler import count_steps, group_rows, rows_of_step
from tests.fixtures.training import logged, on_passages


def row(ids, learnt=1):
    """The last tokens are learnt."""
    return TokenizedRow(tuple(ids), (*[0.0] * (len(ids) - learnt), *[1.0] * learnt))


def epoch_of(plan):
    """The rows of one epoch, step after step."""
    steps = -(-len(plan.rows) // plan.settings.batch_size)
    return [one for step in range(steps) for one in plan.rows_for_step(step)]


def to_compute(plan):
    """Tokens that the steps of an epoch compute."""
    steps = -(-len(plan.rows) // plan.settings.batch_size)
    return sum(
        count_computed_tokens(some)
        for step in range(steps)
        for some in micro_batches(plan.rows_for_step(step), 2048)
    )


def test_rows_that_share_nothing_have_the_order_of_their_seed():
    rows = [row((place, 1, 2)) for place in range(20)]
    settings = Train(batch_size=4)

    assert group_rows(rows, settings) == ()
    expected = list(range(20))
    random.Random("0/0").shuffle(expected)
    stream = [rows_of_step(rows, step, settings) for step in range(5)]
    assert [one.ids[0] for some in stream for one in some] == expected


short = st.lists(st.integers(1, 3), min_size=1, max_size=6)


@given(st.lists(short, min_size=1, max_size=30), st.booleans(), st.integers(1, 6))
def test_an_epoch_has_each_row_once_and_units_lie_together(questions, grouped, batch):
    rows = [row((*ids, 9)) for ids in questions]
    settings = Train(batch_size=batch, group_by_prefix=grouped, epochs=2)
    units = group_rows(rows, settings)
    places = {id(one): place for place, one in enumerate(rows)}

    steps = range(count_steps(len(rows), settings))
    stream = [
        places[id(one)] for step in steps for one in rows_of_step(rows, step, settings, units)
    ]

    assert all(1 < len(unit) <= batch for unit in units)
    for epoch in (stream[: len(rows)], stream[len(rows) :]):
        assert sorted(epoch) == list(range(len(rows)))
        for unit in units:
            begin = epoch.index(unit[0])
            assert tuple(epoch[begin : begin + len(unit)]) == unit


@pytest.mark.parametrize("again", [False, True])
def test_a_talk_that_goes_on_from_row_to_row_is_learnt_in_one_step(plan_of, again):
    plan = plan_of(logged(6, again=again), "train.batch_size=8")

    assert sorted(map(len, plan.row_groups)) == [4] * 6
    assert sorted(map(id, epoch_of(plan))) == sorted(map(id, plan.rows))
    for unit in plan.row_groups:
        lengths = [len(plan.rows[place].ids) for place in unit]
        assert lengths == sorted(lengths), "each behind the one whose history it has"
    assert to_compute(plan) < 0.7 * to_compute(replace(plan, row_groups=()))


def test_questions_on_one_passage_come_together_when_that_is_wished(plan_of):
    rows = on_passages(8)

    plan = plan_of(rows, "train.batch_size=10", "train.group_by_prefix=true")

    assert plan_of(rows, "train.batch_size=10").row_groups == ()
    assert sorted(map(len, plan.row_groups)) == [5] * 8
    assert to_compute(plan) < 0.7 * to_compute(replace(plan, row_groups=()))


def test_no_unit_is_larger_than_a_step():
    rows = [row((7, *range(place), 9)) for place in range(1, 40)]

    units = group_rows(rows, Train(batch_size=16, group_by_prefix=True))

    assert sorted(map(len, units)) == [6, 16, 16]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("train.objective=classify", "classify doesn't go with group_by_prefix"),
        ("train.parallel=ddp", "group_by_prefix doesn't go with parallel ddp"),
    ],
)
def test_what_shares_nothing_is_not_grouped(change, why):
    with pytest.raises(BadRecipe, match=why):
        make_recipe({}, ["train.group_by_prefix=true", change])
