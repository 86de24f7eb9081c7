"""Labelled spans: read, learnt by an encoder or a decoder, kept, resumed, measured and served."""

import json
import random

import pytest
import torch

from burnish.core.errors import BadData, BadRecipe
from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Message, Prompt
from burnish.core.runs import find_run
from burnish.core.spans import Span, spans_from_tags
from burnish.data.load import load
from burnish.engines.local.open import open_local_engine
from burnish.engines.registry import open_engine
from burnish.evaluate.run import evaluate_source
from burnish.models.artifact import open_artifact
from burnish.models.heads.token_classifier import split_windows, tag_words
from burnish.models.load import load_tokenizer
from burnish.models.local_models import find_model, write_manifest
from burnish.train.run import train
from tests.fixtures.embedder import FACTS, write_embedder
from tests.fixtures.training import weights_after

NAMES = {"fruit": ("red apple", "pear", "plum"), "number": ("one", "two", "three", "four five")}
AROUND = ("the order of", "where is", "please send", "my parcel with", "for", "and", "today")


def marked(count, seed):
    """Texts with fruit and numbers in them, and where they stand."""
    draw, rows = random.Random(seed), []
    for _ in range(count):
        text, spans = draw.choice(AROUND), []
        for _ in range(draw.randint(0, 3)):
            label = draw.choice(sorted(NAMES))
            name = draw.choice(NAMES[label])
            spans.append({"start": len(text) + 1, "end": len(text) + 1 + len(name), "label": label})
            text = f"{text} {name} {draw.choice(AROUND)}"
        rows.append({"text": f"{text} {draw.randint(0, 9999)}", "spans": spans})
    return rows


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory, tiny_folder):
    """A models folder with `tiny` and an encoder whose attention doesn't drown the words."""
    from transformers import BertModel

    models = tmp_path_factory.mktemp("encoders")
    (models / "tiny").symlink_to(tiny_folder / "tiny")
    write_embedder(models / "tiny-encoder")
    model = BertModel.from_pretrained(models / "tiny-encoder")
    model.config.initializer_range = 0.05
    torch.manual_seed(0)
    BertModel(model.config).save_pretrained(models / "tiny-encoder")
    write_manifest(models / "tiny-encoder", {"name": "tiny-encoder", **FACTS})
    return models


@pytest.fixture
def tiny_encoder(encoder_folder, monkeypatch):
    """The encoder, found by its name, as `tiny` is."""
    monkeypatch.setenv("BURNISH_MODELS", str(encoder_folder))
    return find_model("tiny-encoder")


@pytest.fixture
def recipe(tiny_encoder, write_rows):
    """Texts with spans for the tiny encoder."""

    def build(*changes, model=tiny_encoder.name):
        files = {
            "train": [str(write_rows("train.jsonl", marked(90, 1)))],
            "test": [str(write_rows("test.jsonl", marked(40, 2)))],
        }
        usual = (
            "train.objective=token_classify", "train.method=full", "train.learning_rate=2e-3",
            "train.epochs=8", "train.batch_size=8", "train.threads=1", "model.dtype=float32",
            "train.patience=0",
        )  # fmt: skip
        values = {"model": {"name": model}, "data": {**files, "near_duplicate": 1.0}}
        return make_recipe(values, [*usual, *changes])

    return build


@pytest.mark.parametrize(
    "model, method, rate",
    [
        ("tiny-encoder", "full", "2e-3"),
        ("tiny-encoder", "lora", "1e-2"),
        ("tiny", "full", "3e-3"),
    ],
)
def test_an_encoder_or_a_decoder_learns_spans_and_is_measured_by_its_run(
    recipe, model, method, rate
):
    settings = recipe(f"train.method={method}", f"train.learning_rate={rate}", model=model)

    report = train(settings)
    found = evaluate_source(settings, report.run)

    extra = found.scores.extra
    assert found.scores.metric == "span_f1" and found.scores.interval.value > 0.7
    assert extra["entity_f1_low"] < extra["entity_f1"] <= extra["entity_f1_high"]
    assert 1 <= found.perplexity < 2
    artifact = open_artifact(find_run(report.run).artifact)
    assert artifact.kind == "token_classifier"
    assert artifact.lineage["labels"] == ["O", "B-fruit", "I-fruit", "B-number", "I-number"]
    assert (artifact.path / "adapter_config.json").exists() == (method == "lora")


def test_it_answers_with_the_places_of_the_spans_and_makes_no_text(recipe):
    run = train(recipe()).run
    engine = open_engine(run)
    asked = (Message("user", "please send red apple and two today"),)

    free, bound = engine.answer([Prompt(asked), Prompt(asked, choices=("number",))])

    assert json.loads(free.text) == [
        {"text": "red apple", "label": "fruit", "start": 12, "end": 21},
        {"text": "two", "label": "number", "start": 26, "end": 29},
    ]
    assert [one["label"] for one in json.loads(bound.text)] == ["number"]
    with pytest.raises(BadData, match="none of the requested labels"):
        engine.answer([Prompt(asked, choices=("city",))])
    with pytest.raises(BadRecipe, match="makes no text"):
        open_local_engine(run)


def test_the_scheduler_answers_its_requests_beside_others(recipe):
    from burnish.engines.scheduling.model_pool import open_model_pool

    run = train(recipe("train.max_steps=1")).run
    engine = open_model_pool([run]).find(run)
    request = engine.build_request(Prompt((Message("user", "two"),)))
    engine.choose([request])

    assert request.prompt.choices == ("fruit", "number") and isinstance(
        json.loads(request.text), list
    )


def test_killed_at_a_step_it_goes_on_to_the_same_weights(recipe, tmp_path):
    settings = recipe("train.checkpoint_every=3", "train.max_steps=11")
    whole, resumed, weights = weights_after(settings, tmp_path)

    assert resumed.steps == whole.steps == 11
    assert weights[0] == weights[1]


@pytest.mark.parametrize("name", ["tiny-encoder", "tiny"])
@pytest.mark.parametrize("subwords", ["first", "all"])
def test_a_long_text_is_judged_word_by_word_in_windows(tiny_encoder, name, subwords):
    tokenizer = load_tokenizer(find_model(name))
    text = " ".join(f"{word} zebra" for word in ("parcel", "apple", "password") * 12)
    whole = split_windows(text, tokenizer, 512, subwords)
    parts = split_windows(text, tokenizer, 24, subwords)

    assert len(whole) == 1 and len(parts) > 3
    assert all(len(window.ids) <= 24 for window in parts)
    places = [(word.start, word.end) for window in parts for word in window.words]
    assert places == [(word.start, word.end) for word in whole[0].words]
    # In the middle of the text no word is judged at the edge of what is read with it.
    inner = parts[1]
    assert inner.words[0].token >= 2 and inner.words[-1].token <= len(inner.ids) - 2
    if subwords == "first" and name == "tiny-encoder":
        assert {text[start:end] for start, end in places} == {
            "parcel", "apple", "password", "zebra"
        }  # fmt: skip


def test_words_bear_the_tags_of_their_spans_and_tags_give_the_spans_back(tiny_encoder):
    text = "send red apple, plum and two"
    spans = (Span(5, 14, "fruit"), Span(16, 20, "fruit"), Span(25, 28, "number"))
    tokenizer = load_tokenizer(tiny_encoder)
    words = split_windows(text, tokenizer, 64, "first")[0].words

    tags = tag_words(words, spans)

    assert tags == ["O", "B-fruit", "I-fruit", "O", "B-fruit", "O", "B-number"]
    assert spans_from_tags(tags, [(word.start, word.end) for word in words]) == spans


def test_only_first_tokens_are_learnt_and_padding_is_not(recipe):
    from burnish.core.runs import Run
    from burnish.train.loop.context import TrainContext
    from burnish.train.trainers.token_classification import TokenClassifierTrainer

    settings = recipe("train.objective={kind: token_classify, class_weights: balanced}")
    base = find_model(settings.model.name)
    trainer = TokenClassifierTrainer(TrainContext.create(settings, load(settings), base))
    rows, validation = trainer.tokenize()
    plan = trainer.build(Run(base.path), rows, validation)
    plan.model.eval()
    for module in plan.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    some = rows[:5]
    means = plan.validation_step(some)

    losses, whole = 0.0, 0.0
    for row in some:
        logits = plan.model(input_ids=torch.tensor([row.ids])).logits[0]
        for place, tag in enumerate(row.tags):
            if tag >= 0:
                losses -= float((plan.weights[tag] * logits[place].log_softmax(-1)[tag]).detach())
                whole += float(plan.weights[tag])
    assert means["loss"] == pytest.approx(losses / whole, rel=1e-4)
    assert plan.weights[0] < plan.weights[1], "most words are in no span"


def test_rows_without_spans_and_slow_tokenizers_are_refused(recipe, write_rows):
    plain = write_rows("plain.jsonl", [{"prompt": f"a {n}?", "completion": "b"} for n in range(20)])
    with pytest.raises(BadData, match="isn't a text with labelled spans"):
        train(recipe(f"data.train=[{plain}]", "data.test=[]"))
    none = write_rows("none.jsonl", [{"text": f"a {n}", "spans": []} for n in range(20)])
    with pytest.raises(BadData, match="nothing to find"):
        train(recipe(f"data.train=[{none}]", "data.test=[]"))


def test_compare_takes_an_encoder_for_spans(recipe, monkeypatch):
    from burnish.compare.encoder import train_encoder

    monkeypatch.setattr("burnish.compare.encoder._LEAST_STEPS", 3)
    monkeypatch.setattr("burnish.compare.encoder._EPOCHS", 1)

    settings = recipe("rag.embedder=tiny-encoder")
    small = settings.model_copy(update={"train": make_recipe({}).train})

    run = train_encoder(small, load(settings))

    assert open_artifact(run.artifact).kind == "token_classifier"
