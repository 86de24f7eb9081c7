"""A student whose layers are held to its teacher's."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import make_recipe
from burnish.models.pruning.depth import evenly_spaced
from burnish.train.distillation.hidden_states import MatchHiddenStates
from burnish.train.distillation.teacher_logits import TeacherLogits
from burnish.train.loop.language_model import compute_validation_metrics, train_step
from burnish.train.objectives.distillation import distillation
from burnish.train.run import train


@pytest.fixture
def deep(models_beside_tiny):
    """A models folder with `tiny` and a teacher `deep` of 5 layers and another width."""
    return models_beside_tiny("deep", num_hidden_layers=5)


def held(teacher="deep", weight=1.0):
    return (
        "train.objective.kind=distill", f"train.objective.teacher={teacher}",
        f"train.objective.hidden={weight}", "train.method=full",
    )  # fmt: skip


def with_teacher(plan, tokenizer):
    return TeacherLogits(plan.settings.objective).add_to(plan, tokenizer)


def matched(plan, tokenizer):
    return MatchHiddenStates(plan.settings.objective).match(plan, tokenizer)


def test_layers_are_evenly_apart_with_the_first_and_the_last():
    assert (
        evenly_spaced(3, 7) == [0, 3, 6]
        and evenly_spaced(2, 5) == [0, 4]
        and evenly_spaced(4, 4) == [0, 1, 2, 3]
    )


def test_the_loss_is_the_plain_distance_between_mapped_layers(
    plan_of, deep, dataset, tiny_tokenizer
):
    rows = dataset.split.train[:5]
    plan = with_teacher(plan_of(rows, *held(weight=0.3)), tiny_tokenizer)

    without = compute_validation_metrics(plan, plan.rows)
    found = compute_validation_metrics(matched(plan, tiny_tokenizer), plan.rows)

    student = LlamaForCausalLM.from_pretrained(deep / "tiny")
    teacher = LlamaForCausalLM.from_pretrained(deep / "deep")
    matrix, total, count = plan.language.into_teacher.weight.detach(), 0.0, 0
    for row in plan.rows:
        ids = torch.tensor([row.row.ids])
        places = [n - 1 for n, weight in enumerate(row.row.weights) if n and weight > 0]
        ours, theirs = hooked(student, ids, [0, 1]), hooked(teacher, ids, [0, 4])
        for place in places:
            for one, other in zip(ours, theirs, strict=True):
                gap = matrix @ one[0, place] - other[0, place]
                total += float(gap @ gap / (other[0, place] @ other[0, place])) / 2
            count += 1
    assert found["hidden"] == pytest.approx(total / count, rel=1e-3)
    assert found["loss"] == pytest.approx(without["loss"] + 0.3 * total / count, rel=1e-3)


def hooked(model, ids, numbers):
    """What some layers of a plain model give."""
    found = {}
    handles = [
        model.model.layers[number].register_forward_hook(
            lambda layer, given, out, number=number: found.update({number: out})
        )
        for number in numbers
    ]
    with torch.no_grad():
        model(input_ids=ids)
    for handle in handles:
        handle.remove()
    return [one[0] if isinstance(one, tuple) else one for one in (found[n] for n in numbers)]


@pytest.mark.parametrize("change", ["method=full", "method=lora", "gradient_checkpointing=true"])
def test_layers_come_nearer_and_nothing_of_it_is_kept(recipe_of, dataset, deep, tmp_path, change):
    recipe = recipe_of(*held(), "train.epochs=4", f"train.{change}")

    report = train(recipe, dataset, out=tmp_path / "run")

    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    apart = [line["hidden"] for line in map(json.loads, lines) if "hidden" in line]
    assert apart[-1] < 0.8 * apart[0] and report.losses[-1] < report.losses[0]
    kept = [k for f in (tmp_path / "run" / "artifact").glob("*.safetensors") for k in load_file(f)]
    assert kept and not any("into_teacher" in name for name in kept)


def test_a_teacher_of_the_same_width_needs_no_matrix_and_is_its_own_image(
    plan_of, deep, dataset, tiny_tokenizer
):
    rows = dataset.split.train[:5]
    plan = matched(with_teacher(plan_of(rows, *held("tiny")), tiny_tokenizer), tiny_tokenizer)

    assert not hasattr(plan.language, "into_teacher")
    assert train_step(plan, plan.rows)["hidden"] == pytest.approx(0, abs=1e-6)


def test_what_cannot_be_compared_is_refused(recipe_of, dataset, deep, tmp_path):
    with pytest.raises(BadRecipe, match="too few to match"):
        train(recipe_of(*held("tiny"), "model.name=deep"), dataset)
    with pytest.raises(BadRecipe, match="set on_policy 0"):
        make_recipe({}, [*held(), "train.objective.weight=1", "train.objective.on_policy=0.5"])
    with pytest.raises(BadRecipe, match="puts tokens before a row"):
        make_recipe({}, [*held()[:3], "train.method=prompt"])
    plain = make_recipe({}, [*held(weight=0)]).train.objective
    assert [type(stage) for stage in distillation(plain).stages] == [TeacherLogits]
