"""A classification head: learnt, kept, resumed, measured and served like any other model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import set_seed

from burnish.core.errors import BadData, BadRecipe
from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Message, Prompt, Row
from burnish.core.runs import Run, find_run
from burnish.data.load import Dataset, load
from burnish.engines.local.open import open_local_engine
from burnish.engines.registry import open_engine
from burnish.evaluate.run import evaluate_source
from burnish.models.artifact import open_artifact
from burnish.models.local_models import find_model
from burnish.train.loop.context import TrainContext
from burnish.train.run import train
from burnish.train.trainers.sequence_classification import ClassifierTrainer, class_weights
from tests.fixtures.tickets import WORDS, tickets
from tests.fixtures.training import weights_after


@pytest.fixture
def recipe(tiny_embedder, write_rows):
    """Tickets for the tiny encoder; it learns them in a few steps."""

    def build(*changes, model=tiny_embedder.name):
        files = {
            "train": [str(write_rows("train.jsonl", tickets(90, 1)))],
            "test": [str(write_rows("test.jsonl", tickets(45, 2)))],
        }
        usual = (
            "train.objective=classify", "train.method=full", "train.learning_rate=1e-3",
            "train.epochs=10", "train.batch_size=8", "train.threads=1", "model.dtype=float32",
            "train.patience=0",
        )  # fmt: skip
        values = {"model": {"name": model}, "data": {**files, "near_duplicate": 1.0}}
        return make_recipe(values, [*usual, *changes])

    return build


@pytest.mark.parametrize(
    "model, method, rate",
    [
        ("tiny-embedder", "full", "1e-3"),
        ("tiny-embedder", "lora", "5e-3"),
        ("tiny", "full", "2e-3"),
        ("tiny", "lora", "5e-3"),
    ],
)
def test_an_encoder_or_a_decoder_learns_labels_and_is_measured_by_its_run(
    recipe, model, method, rate
):
    settings = recipe(f"train.method={method}", f"train.learning_rate={rate}", model=model)

    report = train(settings)
    found = evaluate_source(settings, report.run)

    assert found.scores.metric == "accuracy" and found.scores.interval.value > 0.7
    assert 1 <= found.perplexity < 2 and found.scores.predictions[0].tokens_out == 0
    artifact = open_artifact(find_run(report.run).artifact)
    assert artifact.kind == "classifier" and artifact.lineage["labels"] == sorted(WORDS)
    assert (artifact.path / "adapter_config.json").exists() == (method == "lora")


def test_it_answers_with_labels_only_and_makes_no_text(recipe):
    run = train(recipe()).run
    engine = open_engine(run)
    asked = (Message("user", "where is my parcel"),)

    free, bound = engine.answer([Prompt(asked), Prompt(asked, choices=("refund", "account"))])

    assert free.text in WORDS and bound.text in ("refund", "account")
    with pytest.raises(BadRecipe, match="makes no text"):
        open_local_engine(run)


def test_it_is_served_and_exported_as_what_it_is(recipe, tmp_path):
    from burnish.engines.scheduling.model_pool import open_model_pool
    from burnish.models.merge import CannotMerge, load_merged_model

    run = train(recipe("train.method=lora", "train.max_steps=1", model="tiny")).run
    fleet = open_model_pool([run, "tiny"])

    assert type(fleet.find(run)) is type(open_engine(run)) and fleet.find("tiny")
    with pytest.raises(CannotMerge, match="generates no text"):
        load_merged_model(open_artifact(find_run(run).artifact))


def test_a_changed_file_of_the_artifact_is_noticed(recipe):
    folder = find_run(train(recipe("train.max_steps=1")).run).artifact
    (folder / "config.json").write_text("{}")

    with pytest.raises(BadData, match=r"config\.json changed"):
        open_artifact(folder)


def test_transformers_alone_gives_the_same_answers(recipe):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    run = train(recipe())
    folder = find_run(run.run).artifact
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokens = AutoTokenizer.from_pretrained(folder)("refund the order today", return_tensors="pt")

    with torch.inference_mode():
        theirs = model.eval()(**tokens).logits.log_softmax(-1)[0]

    ours = open_engine(run.run).classifier.log_probs(["refund the order today"])[0]
    torch.testing.assert_close(torch.tensor(ours), theirs)
    assert list(model.config.id2label.values()) == sorted(WORDS)


def test_killed_at_a_step_it_goes_on_to_the_same_weights(recipe, tmp_path):
    settings = recipe("train.checkpoint_every=3", "train.max_steps=11")
    whole, resumed, weights = weights_after(settings, tmp_path)

    assert resumed.steps == whole.steps == 11
    assert weights[0] == weights[1]


def plan_of(settings, rows=None):
    dataset = load(settings)
    if rows:
        dataset = replace(dataset, split=replace(dataset.split, train=rows))
    base = find_model(settings.model.name)

    trainer = ClassifierTrainer(TrainContext.create(settings, dataset, base))
    rows, validation = trainer.tokenize()
    set_seed(0)
    return trainer.build(Run(Path()), rows, validation)


def test_a_steps_loss_and_gradients_do_not_depend_on_how_it_is_cut(recipe):
    found = []
    for most in (16, 4096):
        plan = plan_of(recipe(f"train.micro_batch_tokens={most}"))
        # Dropout would draw in another order.
        plan.model.config.hidden_dropout_prob = 0.0
        for module in plan.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        plan.model.config.attention_probs_dropout_prob = 0.0
        for layer in plan.model.base_model.encoder.layer:
            layer.attention.self.dropout_prob = 0.0
            layer.attention.self.attention_dropout = 0.0
        loss = plan.training_step(plan.rows[:8], 0).metrics["loss"]
        found.append((loss, plan.optimizer.clip()))

    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_balanced_weights_are_those_of_scikit_learn_and_of_torchs_loss(recipe):
    from sklearn.utils.class_weight import compute_class_weight

    targets = [0, 0, 0, 0, 1, 2, 2]
    ours = class_weights(targets, 3, "balanced")
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=targets)

    assert ours.tolist() == pytest.approx(theirs.tolist())
    assert class_weights(targets, 3, "none").tolist() == [1, 1, 1]
    # A tag that no word has: as the rarest of those that are there, whose weights it leaves alone.
    assert class_weights(targets, 4, "balanced").tolist() == pytest.approx([*theirs, max(theirs)])


def test_a_rare_label_is_found_more_often_if_labels_are_balanced(recipe):
    rows = load(recipe()).split.train
    rare = [row for row in rows if row.answer == "refund"][:2]
    rows = (*[row for row in rows if row.answer != "refund"], *rare)
    first = {}
    for kind in ("none", "balanced"):
        plan = plan_of(recipe(f"train.objective={{kind: classify, class_weights: {kind}}}"), rows)
        plan.training_step(plan.rows, 0)
        first[kind] = plan.optimizer.masters["classifier.bias"].grad

    # The gradient of a bias: less than 0 where the step raises it.
    assert first["balanced"][2] < first["none"][2] and first["balanced"][2] < 0.05


@pytest.mark.parametrize(
    "change, words",
    [
        ("train.method=ia3", "it goes with method lora, full"),
        ("train.method={kind: lora, init: pissa}", "doesn't begin at zero"),
        ("train.gradient_checkpointing=true", "doesn't go with gradient_checkpointing"),
    ],
)
def test_what_an_encoder_cannot_do_is_refused_before_anything(change, words):
    with pytest.raises(BadRecipe, match=words):
        make_recipe({}, ["train.objective=classify", change])


def test_answers_that_are_no_labels_are_refused_and_nothing_is_left(recipe, workspace):
    with pytest.raises(BadRecipe, match="for labels"):
        train(recipe("task.kind=generation"))
    dataset = load(recipe())
    one = tuple(row for row in dataset.split.train if row.answer == "refund")
    with pytest.raises(BadData, match="nothing to classify"):
        train(recipe(), replace(dataset, split=replace(dataset.split, train=one)))

    assert not list(workspace.glob("runs/*"))


def test_validation_rows_of_an_unknown_label_are_left_out(recipe):
    dataset: Dataset = load(recipe())
    strange = Row((Message("user", "hm"), Message("assistant", "other")), label="other")
    split = replace(dataset.split, validation=(*dataset.split.validation, strange))

    report = train(recipe("train.max_steps=2"), replace(dataset, split=split))

    assert report.best_validation_loss is not None
