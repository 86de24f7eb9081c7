"""An embedding model of one's own: the losses, the training, and everywhere that it is used."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import set_seed

from burnish.compare.classifier import train_classifier
from burnish.core.errors import BadData, BadRecipe
from burnish.core.recipe.objectives import Embed
from burnish.core.recipe.recipe import make_recipe
from burnish.core.recipe.serve import Serve
from burnish.core.records import Split
from burnish.core.runs import Run, find_run
from burnish.data.load import load
from burnish.engines.registry import open_engine
from burnish.models.artifact import open_artifact
from burnish.models.heads.embedder import Embedder
from burnish.models.local_models import find_model
from burnish.train.loop.context import TrainContext
from burnish.train.losses.contrastive import LOSSES
from burnish.train.run import train
from burnish.train.trainers.embedding import EmbeddingTrainer
from tests.fixtures.tickets import tickets
from tests.fixtures.worker_process import in_child

COLOURS = ("red", "green", "blue", "yellow")
FRUITS = ("apple", "pear", "plum", "lamp")


def pairs():
    """Questions that share no word with their passages: a number stands for a colour."""
    found = []
    for number, colour in zip(("one", "two", "three", "four"), COLOURS, strict=True):
        for word in ("parcel", "order", "account", "money"):
            for fruit in FRUITS:
                asked = f"{number} {number} {number} {word} {fruit}"
                found.append({"prompt": asked, "completion": " ".join([colour] * 7)})
    return found


@pytest.fixture
def recipe(tiny_embedder, write_rows):
    def build(*changes, rows=None):
        usual = (
            "train.objective=embed", "train.method=full", "train.learning_rate=1e-3",
            "train.epochs=10", "train.batch_size=16", "train.threads=1", "model.dtype=float32",
            "train.patience=0", "data.near_duplicate=1.0",
        )  # fmt: skip
        file = write_rows("pairs.jsonl", rows or pairs())
        values = {"model": {"name": tiny_embedder.name}, "data": {"train": [str(file)]}}
        return make_recipe(values, [*usual, *changes])

    return build


def plan_of(settings):
    base = find_model(settings.model.name)
    trainer = EmbeddingTrainer(TrainContext.create(settings, load(settings), base))
    rows, validation = trainer.tokenize()
    set_seed(0)
    return trainer.build(Run(Path()), rows, validation)


def without_dropout(plan):
    for module in plan.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in plan.model.encoder.layer:
        layer.attention.self.dropout_prob = 0.0
    return plan


def first_places(embedder, rows):
    """Share of the questions whose nearest passage is their own."""
    passages = sorted({row.answer for row in rows})
    asked = embedder.encode([row.prompt[-1].content for row in rows])
    nearest = (asked @ embedder.encode(passages).T).argmax(1)
    return np.mean([passages[n] == row.answer for n, row in zip(nearest, rows, strict=True)])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("method, rate", [("full", "1e-3"), ("lora", "5e-3")])
def test_questions_come_to_lie_near_their_passages(recipe, loss, method, rate):
    settings = recipe(
        f"train.objective={{kind: embed, loss: {loss}, margin: 1.0}}",
        f"train.method={method}",
        f"train.learning_rate={rate}",
        "train.epochs=20",
    )
    test = load(settings).split.test
    before = first_places(Embedder(find_model("tiny-embedder")), test)

    run = train(settings).run

    assert first_places(Embedder(find_model(run)), test) > before + 0.3


def test_rows_of_one_label_come_to_lie_together_and_the_linear_classifier_gains(recipe):
    rows = tickets(120, 1)
    settings = recipe("train.epochs=3", rows=rows)
    dataset = load(settings)
    before = train_classifier(recipe("rag.embedder=tiny-embedder", rows=rows), dataset)

    run = train(settings, dataset).run
    after = train_classifier(recipe(f"rag.embedder={run}", rows=rows), dataset)

    asked = [row.prompt[-1].content for row in dataset.split.test]
    labels = [row.answer for row in dataset.split.test]
    certain = []
    for one in (before, after):
        model = open_engine(one.artifact).classifier
        logs = model.log_probs(asked)
        own = [logs[n, model.labels.index(label)] for n, label in enumerate(labels)]
        certain.append(np.mean(own))
    assert before.id != after.id and certain[1] > certain[0]


def test_the_artifact_is_a_model_folder_and_is_indexed_with(recipe, tmp_path):
    from burnish import api

    run = find_run(train(recipe("train.max_steps=2")).run)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# Lamps\nThe lamp is broken.\n")

    api.index([tmp_path / "docs"], "own", embedder=run.id)
    found = api.search("own", "broken lamp")

    assert open_artifact(run.artifact).kind == "embedder"
    assert found and "lamp" in found[0].passage.text
    assert find_model(run.id).name == find_model(str(run.artifact)).name == run.id
    with pytest.raises(BadRecipe, match="makes vectors and no text"):
        open_engine(run.id)


def test_the_server_makes_vectors_with_it(recipe, tmp_path):
    from burnish.serve.inference.embeddings import Embedders
    from burnish.serve.run import _open_model_pool

    run = train(recipe("train.max_steps=1")).run
    known = Embedders({"own": run})

    assert {run, "own"} <= set(known.names())
    theirs = Embedder(find_model(run)).encode(["where is my parcel"])
    np.testing.assert_allclose(known.encode("own", ["where is my parcel"]), theirs, atol=1e-6)
    assert not _open_model_pool([run], {}, Serve()).engines


def test_sentence_transformers_layout_is_kept(recipe):
    run = find_run(train(recipe("train.max_steps=1", "train.max_length=32")).run)

    embedder = Embedder(find_model(run.id))

    assert embedder.max_tokens == 32
    assert (run.artifact / "1_Pooling" / "config.json").exists()
    text = ["the lamp is broken"]
    alone, padded = embedder.encode(text)[0], embedder.encode([*text, "where is my parcel now"])[0]
    np.testing.assert_allclose(alone, padded, atol=1e-5)


def test_killed_at_a_step_it_goes_on_to_the_same_weights(recipe, tmp_path):
    settings = recipe("train.checkpoint_every=2", "train.max_steps=7", "train.evaluate_every=5")
    train(settings, out=tmp_path / "whole")

    def die(step, loss):
        raise SystemExit(9)

    assert in_child(lambda: train(settings, out=tmp_path / "cut", on_validation=die)) != 0
    train(settings, resume=tmp_path / "cut")

    weights = [(tmp_path / n / "artifact/model.safetensors").read_bytes() for n in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_gradients_do_not_depend_on_how_a_step_is_cut_into_passes(recipe):
    found = []
    for most in (16, 4096):
        plan = without_dropout(plan_of(recipe(f"train.micro_batch_tokens={most}")))
        loss = plan.training_step(plan.rows[:12], 0).metrics["loss"]
        found.append((loss, plan.optimizer.clip()))

    assert found[0] == pytest.approx(found[1], rel=1e-4)


def vectors(*angles):
    return torch.tensor([[np.cos(a), np.sin(a)] for a in angles], dtype=torch.float32)


def test_losses_are_those_of_their_formulas():
    anchors, others = vectors(0.0, 1.0), vectors(0.3, 0.8, 2.0)
    wrong = torch.tensor([[False, True, True], [True, False, True]])
    away = torch.cdist(anchors, others)

    ranked = LOSSES["ranking"](anchors, others, wrong, Embed())
    tripled = LOSSES["triplet"](anchors, others, wrong, Embed(loss="triplet", margin=1.0))
    pushed = LOSSES["contrastive"](anchors, others, wrong, Embed(loss="contrastive", margin=1.0))

    logits = 20 * anchors @ others.T
    torch.testing.assert_close(
        ranked, torch.nn.functional.cross_entropy(logits, torch.arange(2), reduction="none")
    )
    theirs = torch.nn.TripletMarginLoss(margin=1.0, reduction="none")
    nearest = others[away.masked_fill(~wrong, torch.inf).argmin(1)]
    torch.testing.assert_close(tripled, theirs(anchors, others[:2], nearest), atol=1e-4, rtol=1e-4)
    first = away[0, 0] ** 2 + ((1 - away[0, 1:]).clamp(min=0) ** 2).mean()
    torch.testing.assert_close(pushed[0], first, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_second_right_text_is_not_pushed_away_and_one_row_alone_is_no_lesson(loss):
    others = vectors(0.3, 0.1).requires_grad_(True)
    wrong = torch.zeros(2, 2, dtype=torch.bool)

    LOSSES[loss](vectors(0.0, 0.2), others, wrong, Embed(loss=loss, margin=2.0)).sum().backward()
    lone = LOSSES[loss](vectors(0.5), vectors(0.5), wrong[:1, :1], Embed(loss=loss))

    assert torch.isfinite(others.grad).all()
    assert float(lone) == pytest.approx(0, abs=1e-6)
    if loss == "ranking":
        assert float(others.grad.abs().max()) == 0


def test_a_wrong_text_of_the_row_is_pushed_away(recipe):
    rows = [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": "seven six"}
        for row in pairs()
    ]
    plan = plan_of(recipe(rows=rows))

    assert all(len(sample.texts) == 3 for sample in plan.rows)
    without = [replace(sample, texts=sample.texts[:2]) for sample in plan.rows[:4]]
    plan = without_dropout(plan)
    assert (
        plan.training_step(plan.rows[:4], 0).metrics["loss"]
        > plan.training_step(without, 0).metrics["loss"]
    )


def test_what_has_no_two_texts_or_makes_no_vectors_is_refused(recipe, workspace):
    with pytest.raises(BadRecipe, match="doesn't make vectors"):
        train(recipe("model.name=tiny"))
    (row, *_) = load(recipe()).split.train
    alone = replace(load(recipe()), split=Split((replace(row, messages=row.prompt),), (), ()))
    with pytest.raises(BadData, match="doesn't have two texts"):
        train(recipe(), alone)

    assert not list(workspace.glob("runs/*"))
