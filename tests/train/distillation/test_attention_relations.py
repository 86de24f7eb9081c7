"""Self-attention relations held to a teacher's, beside the formula of the paper."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Split
from burnish.train.distillation.hidden_states import MatchHiddenStates
from burnish.train.distillation.teacher_logits import TeacherLogits
from burnish.train.loop.language_model import compute_validation_metrics, train_step
from burnish.train.run import train
from tests.fixtures.training import make_rows


@pytest.fixture
def wide(models_beside_tiny):
    """A models folder with `tiny` and a teacher `wide`: 3 layers, other heads, another width."""
    return models_beside_tiny(
        "wide", num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=4
    )


def related(teacher="wide", weight=1.0, **more):
    named = "".join(f", {name}: {value}" for name, value in more.items())
    return (
        "train.objective.kind=distill", f"train.objective.teacher={teacher}",
        f"train.objective.attention={{weight: {weight}{named}}}", "train.method=full",
    )  # fmt: skip


def given_by(model, parts, ids):
    """What some matrices of a plain model give for one row, each (tokens, width)."""
    found = []
    handles = [
        part.register_forward_hook(lambda module, given, out: found.append(out[0]))
        for part in parts
    ]
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return found


def as_in_the_paper(models, ids, layers, heads):
    """Equations 2 to 6 of arXiv:2012.15828 for one row of plain models, causal; student first."""
    kinds = []
    for model, layer in zip(models, layers, strict=True):
        own = model.model.layers[layer].self_attn
        kinds.append(given_by(model, (own.q_proj, own.k_proj, own.v_proj), ids))
    total = 0.0
    for ours, theirs in zip(*kinds, strict=True):
        for head in range(heads):
            chances = []
            for states in (ours, theirs):
                width = states.shape[1] // heads
                part = states[:, head * width : (head + 1) * width]
                chances.append(part @ part.T / width**0.5)
            for token in range(len(ids)):
                student, teacher = (one[token, : token + 1].softmax(0) for one in chances)
                total += float((teacher * (teacher / student).log()).sum()) / heads / len(ids)
    return total


def with_teacher(plan, tokenizer):
    return TeacherLogits(plan.settings.objective).add_to(plan, tokenizer)


def matched(plan, tokenizer):
    return MatchHiddenStates(plan.settings.objective).match(plan, tokenizer)


@pytest.mark.parametrize(("layer", "heads"), [(3, None), (2, 8)])
@pytest.mark.parametrize("system", ["Sort the request.", ""])
def test_the_loss_is_that_of_the_paper_row_by_row(
    plan_of, wide, tiny_tokenizer, layer, heads, system
):
    rows = make_rows(5, system=system)
    options = {"layer": layer, "heads": heads or "null"}
    plan = with_teacher(plan_of(rows, *related(weight=0.3, **options)), tiny_tokenizer)

    without = compute_validation_metrics(plan, plan.rows)
    found = compute_validation_metrics(matched(plan, tiny_tokenizer), plan.rows)

    eager = {"attn_implementation": "eager", "dtype": torch.float32}
    models = [LlamaForCausalLM.from_pretrained(wide / name, **eager) for name in ("tiny", "wide")]
    total = count = 0.0
    for row in plan.rows:
        learnt = sum(weight > 0 for weight in row.row.weights[1:])
        apart = as_in_the_paper(models, row.row.ids, (1, layer - 1), heads or 4)
        total, count = total + learnt * apart, count + learnt
    assert total / count > 0.05
    assert found["attention"] == pytest.approx(total / count, rel=1e-4)
    assert found["loss"] == pytest.approx(without["loss"] + 0.3 * total / count, rel=1e-4)


def test_how_rows_are_packed_changes_nothing(plan_of, wide, tiny_tokenizer):
    rows = make_rows(6, system="Sort the request.")
    found = []
    for most in (32, 2000):
        changes = (*related(), f"train.micro_batch_tokens={most}")
        plan = with_teacher(plan_of(rows, *changes), tiny_tokenizer)
        found.append(train_step(matched(plan, tiny_tokenizer), plan.rows))
        found[-1]["gradient"] = plan.optimizer.clip()
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_teacher_like_its_student_is_no_distance_away(plan_of, wide, tiny_tokenizer, dataset):
    plan = with_teacher(plan_of(dataset.split.train[:5], *related("tiny")), tiny_tokenizer)

    assert train_step(matched(plan, tiny_tokenizer), plan.rows)["attention"] == (
        pytest.approx(0, abs=1e-6)
    )


@pytest.mark.parametrize("change", ["method=full", "method=lora", "gradient_checkpointing=true"])
def test_relations_come_nearer_than_without(recipe_of, dataset, wide, tmp_path, change):
    found = {}
    rows = Split(dataset.split.train[:8], dataset.split.validation[:4], ())
    for weight in (1.0, 1e-9):
        changes = (*related(weight=weight), "train.epochs=4", f"train.{change}")
        train(recipe_of(*changes), replace(dataset, split=rows), out=tmp_path / str(weight))
        lines = (tmp_path / str(weight) / "metrics.jsonl").read_text().splitlines()
        key = "validation_attention"
        found[weight] = [line[key] for line in map(json.loads, lines) if key in line]
    assert found[1.0][-1] < 0.8 * found[1e-9][-1]


def test_what_cannot_be_compared_is_refused(recipe_of, dataset, wide, monkeypatch):
    refused = {
        "there is no layer 4": related(layer=4),
        r"don't divide .*\n.*one of 1, 2, 4, 8": related(heads=3),
    }
    for why, changes in refused.items():
        with pytest.raises(BadRecipe, match=why):
            train(recipe_of(*changes), dataset)
    with pytest.raises(BadRecipe, match="set on_policy 0"):
        make_recipe({}, [*related(), "train.objective.weight=1", "train.objective.on_policy=0.5"])
    with pytest.raises(BadRecipe, match="puts tokens before a row"):
        make_recipe({}, [*related()[:3], "train.method=prompt"])
    with pytest.raises(BadRecipe, match="goes with parallel none"):
        make_recipe({}, [*related(), "train.parallel=ddp", "train.devices=2"])
    monkeypatch.setattr(
        "burnish.train.distillation.attention_relations._NAMES", (("wq", "wk", "wv"),)
    )
    with pytest.raises(BadRecipe, match="doesn't know the names"):
        train(recipe_of(*related()), dataset)
