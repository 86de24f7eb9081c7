"""Compiled layers compute what the others do; where nothing can be compiled they are said to."""

import os

import pytest
import torch

from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import make_recipe
from burnish.train.adapters.registry import trainable_weights
from burnish.train.loop.language_model import compute_validation_metrics, train_step
from tests.fixtures.training import make_rows
from tests.fixtures.worker_process import in_child
from tests.train.batching.test_packed import stir


def learnt(plan):
    """Loss, gradients and the loss of a validation, after a batch of another length."""
    stir(plan.model)
    train_step(plan, plan.rows[:3])
    plan.optimizer.reset()
    loss = train_step(plan, plan.rows)["loss"]
    grads = {
        name: plan.optimizer.masters[name].grad.clone() for name in trainable_weights(plan.model)
    }
    return loss, grads, compute_validation_metrics(plan, plan.rows)["loss"]


def frames():
    """How many pieces of Python were compiled so far."""
    return torch._dynamo.utils.counters["frames"]["ok"]


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["train.method=dora"],
        ["train.method=full"],
        ["train.method=bottleneck"],
        ["train.method=prefix"],
        ["train.method=prompt"],
        ["train.method=ia3"],
        ["train.method=qlora"],
        ["train.gradient_checkpointing=true"],
        ["model.dtype=bfloat16"],
    ],
    ids=str,
)
def test_compiled_layers_learn_the_same(changes, plan_of):
    rows = make_rows(7, system="Sort the request.")
    plan, before = plan_of(rows, "train.compile=true", *changes), frames()

    compiled = learnt(plan)

    assert frames() - before > 2, "what can't be compiled would be computed as it was"
    plain = learnt(plan_of(rows, *changes))
    if "bfloat16" in str(changes):  # whose noise has no bound for gradients that are nearly zero
        assert compiled[0] == pytest.approx(plain[0], rel=1e-2)
    else:
        torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("change", ["train.objective=classify", "train.parallel=ddp"])
def test_what_cannot_be_compiled_is_refused(change):
    with pytest.raises(BadRecipe, match="compile"):
        make_recipe({"train": {"compile": True}}, [change])


@pytest.mark.long
def test_without_a_compiler_layers_are_computed_as_they_are(tmp_path):
    def compile_some():
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path)
        from torch._inductor.config import cpp

        from burnish.train.kernels import compile as compiled

        cpp.cxx = (None, "/no/compiler")

        compiled.say = said.append
        compiled.compile_layers(torch.nn.Linear(1, 1))
        assert len(said) == 1 and "are computed as they are" in said[0], said

    said = []
    assert in_child(compile_some) == 0
