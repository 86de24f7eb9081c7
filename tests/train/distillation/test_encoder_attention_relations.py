"""An encoder whose self-attention is held to that of another one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, BertConfig, BertModel, set_seed

from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import make_recipe
from burnish.core.runs import Run, find_run
from burnish.data.load import load
from burnish.distill.student import student_recipe
from burnish.models.local_models import find_model, read_manifest, write_manifest
from burnish.train.loop.context import TrainContext
from burnish.train.run import train
from burnish.train.trainers.sequence_classification import ClassifierTrainer
from tests.fixtures.tickets import tickets
from tests.train.distillation.test_attention_relations import given_by


@pytest.fixture
def recipe(tiny_embedder, tmp_path, monkeypatch, write_rows):
    """Tickets for `small`, 1 layer of 2 heads, 64 wide, beside `deep`, 3 layers of 4 heads, 32
    wide."""
    models = tmp_path / "models"
    shutil.copytree(tiny_embedder.path.parent, models)
    for name, layers, heads, width in (("small", 1, 2, 64), ("deep", 3, 4, 32)):
        shutil.copytree(tiny_embedder.path, models / name)
        config = BertConfig.from_pretrained(tiny_embedder.path)
        config.num_hidden_layers, config.num_attention_heads = layers, heads
        config.hidden_size, config.initializer_range = width, 0.1
        torch.manual_seed(layers)
        BertModel(config).save_pretrained(models / name)
        write_manifest(models / name, {**read_manifest(tiny_embedder.path), "name": name})
    monkeypatch.setenv("BURNISH_MODELS", str(models))

    def build(*changes, weight=1.0, teacher="deep", hidden=0.0):
        held = f"teacher: '{teacher}', hidden: {hidden}, attention: {{weight: {weight}}}"
        usual = (
            "train.method=full", "train.learning_rate=1e-3", "train.epochs=4",
            "train.batch_size=8", "train.threads=1", "model.dtype=float32", "train.patience=0",
            f"train.objective={{kind: classify, {held}}}",
        )  # fmt: skip
        files = {"train": [str(write_rows("train.jsonl", tickets(60, 1)))]}
        values = {"model": {"name": "small"}, "task": {"kind": "classification"},
                  "data": {**files, "near_duplicate": 1.0}}  # fmt: skip
        return make_recipe(values, [*usual, *changes])

    return build


def plan_of(recipe):
    base = find_model(recipe.model.name)
    trainer = ClassifierTrainer(TrainContext.create(recipe, load(recipe), base))
    set_seed(0)
    return trainer.build(Run(Path()), *trainer.tokenize())


def both_ways(models, ids, heads):
    """The distance of arXiv:2012.15828 between the last layers of plain encoders, for one text."""
    kinds = []
    for model in models:
        own = model.encoder.layer[-1].attention.self
        kinds.append(given_by(model, (own.query, own.key, own.value), ids))
    total = 0.0
    for ours, theirs in zip(*kinds, strict=True):
        for one, other in zip(ours.chunk(heads, 1), theirs.chunk(heads, 1), strict=True):
            student, teacher = ((x @ x.T / x.shape[1] ** 0.5).softmax(-1) for x in (one, other))
            total += float((teacher * (teacher / student).log()).sum()) / heads / len(ids)
    return total


def test_the_loss_is_that_of_the_paper_text_by_text(recipe):
    plan, plain = plan_of(recipe(weight=0.3)), plan_of(recipe(weight=0))
    rows = plan.rows[:6]

    without, found = plain.validation_step(rows), plan.validation_step(rows)

    apart = [
        both_ways(
            [
                AutoModel.from_pretrained(find_model(name).path, attn_implementation="eager")
                for name in ("small", "deep")
            ],
            row.texts[0],
            4,
        )
        for row in rows
    ]
    mean = sum(apart) / len(apart)
    assert found["attention"] == pytest.approx(mean, rel=1e-4) and mean > 0.05
    assert found["loss"] - without["loss"] == pytest.approx(0.3 * mean, rel=1e-3)
    assert "attention" not in without


@pytest.mark.parametrize("method", ["full", "lora"])
def test_relations_come_nearer_than_without(recipe, method):
    found, changes = {}, (f"train.method={method}", "train.learning_rate=5e-3")
    for weight in (1.0, 1e-9):
        run = find_run(train(recipe(*changes, weight=weight)).run)
        lines = map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines())
        found[weight] = [line["attention"] for line in lines if "attention" in line]
    assert found[1.0][-1] < 0.9 * min(found[1.0][0], found[1e-9][-1])


def test_hidden_states_are_compared_text_by_text_through_a_matrix(recipe):
    plan, plain = plan_of(recipe(weight=0, hidden=0.3)), plan_of(recipe(weight=0))
    rows = plan.rows[:6]

    without, found = plain.validation_step(rows), plan.validation_step(rows)

    small, deep = (AutoModel.from_pretrained(find_model(name).path) for name in ("small", "deep"))
    matrix = next(own for name, own in plan.model.named_parameters() if "into_teacher" in name)
    apart = []
    for row in rows:
        ids = torch.tensor([row.texts[0]])
        ours = small(ids).last_hidden_state @ matrix.detach().T
        theirs = deep(ids).last_hidden_state
        far = (ours - theirs).square().sum(-1) / theirs.square().sum(-1)
        apart.append(far.mean().item())
    mean = sum(apart) / len(apart)
    assert found["hidden"] == pytest.approx(mean, rel=1e-4) and mean > 0.05
    assert found["loss"] - without["loss"] == pytest.approx(0.3 * mean, rel=1e-3)
    assert "attention" not in found and "hidden" not in without


def test_each_layer_is_held_to_one_of_the_teachers(recipe):
    changes = ("model.name=deep", "distill.layers=2", "distill.teacher.model=tiny")
    student = student_recipe(recipe(*changes, weight=0, hidden=1.0, teacher=""))

    plan = plan_of(student)

    ours, theirs = plan.teacher.layers
    assert [len(ours), len(theirs)] == [2, 2]
    assert not any("into_teacher" in name for name, _ in plan.model.named_parameters())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(dict(one.state_dict()), dict(other.state_dict()))
    with pytest.raises(BadRecipe, match="The student has 3 layers and small has 1"):
        plan_of(recipe("model.name=deep", teacher="small", weight=0, hidden=1.0))


def test_the_matrix_learns_and_is_thrown_away(recipe):
    run = find_run(train(recipe(weight=1.0, hidden=1.0)).run)

    lines = list(map(json.loads, (run.path / "metrics.jsonl").read_text().splitlines()))
    far = [line["hidden"] for line in lines if "hidden" in line]
    assert far[-1] < 0.9 * far[0] and "attention" in lines[0]
    assert not any("into_teacher" in name for name in load_file(run.artifact / "model.safetensors"))


def test_a_teacher_may_be_a_run_that_has_learnt_labels(recipe):
    taught = train(recipe("model.name=deep", weight=0)).run

    plan = plan_of(recipe(teacher=taught))

    assert plan.validation_step(plan.rows[:4])["attention"] > 0


def test_a_cut_student_is_held_to_the_whole_of_it(recipe):
    changes = ("model.name=deep", "distill.layers=2", "distill.teacher.model=tiny")

    student = student_recipe(recipe(*changes, teacher=""))

    assert student.train.objective.teacher == "deep"
    assert student.model.name == "deep-2-layers"


def test_what_cannot_be_compared_is_refused(recipe):
    for teacher, why in {"": "no teacher is named", "tiny": "another tokenizer"}.items():
        with pytest.raises(BadRecipe, match=why):
            train(recipe(teacher=teacher))
