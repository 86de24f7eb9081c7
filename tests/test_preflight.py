"""A name that nothing has is said at once, whatever it was meant to be."""

import pytest

from burnish.core.errors import NotFound
from burnish.core.recipe.recipe import make_recipe
from burnish.core.runs import new_run
from burnish.preflight import check_known


def test_what_is_neither_a_run_nor_a_model_is_refused_as_both(tiny_model):
    run = new_run("train", make_recipe(), {})

    check_known("tiny", run.id, str(run.path))

    with pytest.raises(NotFound, match=r"no run `nowhere` in .* Nor is a model") as refused:
        check_known("tiny", "nowhere")
    assert "burnish pull nowhere" in refused.value.fix


def test_the_beginning_of_two_runs_names_neither(tiny_model):
    ids = [new_run("train", make_recipe(), {}).id for _ in range(2)]

    with pytest.raises(NotFound, match=r"matches 2 runs\. Nor is a model"):
        check_known(ids[0][:4])
