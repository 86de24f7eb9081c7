"""A loss from the operator's own file."""

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from burnish.core.errors import BadData, BadRecipe
from burnish.serve.fine_tuning.recipe import METHODS
from burnish.serve.graders.protocol import RewardGrader
from burnish.train.loop.language_model import train_step
from burnish.train.run import train
from tests.fixtures.training import die_at_sync, preferred, weights
from tests.fixtures.worker_process import in_child

SFT = "def loss(answers, row):\n    return -(answers[0].logprobs * answers[0].weights).mean()\n"
LOGITS = """
import torch
def loss(answers, row):
    return torch.nn.functional.cross_entropy(answers[0].logits, answers[0].tokens)
"""
MARGIN = """
def loss(answers, row, margin):
    better, worse = (answer.logprobs.mean() for answer in answers)
    assert row.rejected is not None
    return (margin - (better - worse)).clamp(min=0)
"""


@pytest.fixture
def own(tmp_path):
    """Write a loss; returns the change of a recipe that names it."""

    def write(code, more=""):
        (tmp_path / "own.py").write_text(code)
        return f"train.objective={{kind: custom, file: {tmp_path / 'own.py'}{more}}}"

    return write


@pytest.mark.parametrize("code", [SFT, LOGITS])
def test_written_as_cross_entropy_it_has_the_gradients_of_sft(code, own, dataset, plan_of):
    rows = dataset.split.train[:1]
    grads, losses = [], []
    for change in (own(code), "train.objective=sft"):
        plan = plan_of(rows, change)
        losses.append(train_step(plan, plan.rows)["loss"])
        grads.append([master.grad.clone() for master in plan.optimizer.masters.values()])

    assert math.isclose(*losses, rel_tol=1e-5)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


def test_each_row_of_a_batch_has_its_own_answers(own, dataset, plan_of):
    rows = dataset.split.train[:6]
    plan = plan_of(rows, own(SFT))

    together = train_step(plan, plan.rows)["loss"]

    assert math.isclose(
        together, sum(train_step(plan, [row])["loss"] for row in plan.rows) / 6, rel_tol=1e-5
    )


def test_a_margin_between_two_answers_is_learnt_and_resumed(own, dataset, recipe_of, tmp_path):
    data = preferred(dataset, "dpo")
    recipe = recipe_of(own(MARGIN, ", settings: {margin: 1.0}"))
    whole = train(recipe, data, out=tmp_path / "whole")
    assert sum(whole.losses[-4:]) < 0.8 * sum(whole.losses[:4])

    def first():
        die_at_sync(14)
        train(recipe, data, out=tmp_path / "killed")

    assert in_child(first) == -9
    train(recipe, data, resume=tmp_path / "killed")
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert (tmp_path / "whole" / "loss.py").read_text() == MARGIN

    own(MARGIN + "# changed")
    with pytest.raises(BadData, match=r"The loss of .* has changed"):
        train(recipe, data, resume=tmp_path / "whole")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def other(): pass", "no function"),
        ("import nothing_of_that_name", "doesn't load: ModuleNotFoundError"),
        ("def loss(answers, row): return 1 / 0", "row 1: ZeroDivisionError"),
        ("def loss(answers, row): return 1.0", "returned float"),
        ("def loss(answers, row): return answers[0].logprobs", "returned Tensor"),
        ("def loss(answers, row): return answers[0].logprobs.sum().detach()", "depend"),
    ],
)
def test_a_file_that_will_not_do_says_why(code, said, own, dataset, plan_of):
    with pytest.raises(BadRecipe, match=said):
        plan = plan_of(dataset.split.train[:1], own(code))
        train_step(plan, plan.rows)


def test_a_file_that_is_not_there_is_named(dataset, plan_of):
    with pytest.raises(BadRecipe, match=r"no file nowhere\.py"):
        plan_of(dataset.split.train, "train.objective={kind: custom, file: nowhere.py}")


def test_no_method_of_a_request_runs_a_file():
    grader = {"type": "file", "kind": "file", "name": "own", "file": "own.py"}
    numbers = {
        "beta": 0.1, "file": "own.py", "kind": "custom", "compute_multiplier": 1.0,
        "eval_samples": 1, "grader": grader,
    }  # fmt: skip

    kinds = {method.objective(numbers)["kind"] for method in METHODS.values()}

    assert kinds == {"sft", "dpo", "grpo"}
    with pytest.raises(ValidationError):
        TypeAdapter(RewardGrader).validate_python(grader)
