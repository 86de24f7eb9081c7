"""An encoder as the student of `burnish distill`: it learns a teacher's labels."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel

from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import make_recipe
from burnish.data.load import load
from burnish.distill.run import distill
from burnish.distill.student import prepare_student
from burnish.engines.registry import open_engine
from burnish.models.heads.embedder import Embedder
from burnish.models.local_models import find_model
from tests.fixtures.tickets import WORDS


@pytest.fixture
def recipe_of(ticket_recipe, tiny_embedder, stub):
    stub.answer = lambda text: next(
        (label for label, some in WORDS.items() if any(w in text for w in some)), "none"
    )

    def build(*changes):
        usual = (
            "model.name=tiny-embedder", "distill.teacher.model=big", "train.objective=classify",
            "train.epochs=10",
            f"distill.teacher.endpoint={stub.url}", "train.method=full", "train.learning_rate=3e-3",
        )  # fmt: skip
        return make_recipe(ticket_recipe().model_dump(mode="json"), (*usual, *changes))

    return build


def test_an_encoder_learns_the_teachers_labels_and_is_measured_beside_it(recipe_of, tmp_path):
    result = distill(recipe_of("distill.fine_tuned=true"), out=tmp_path / "run")

    assert result.exit_code == 0, result.as_text()
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    by_name = {route["name"]: route for route in report["routes"]}
    assert list(by_name) == ["baseline", "fine_tuned", "distilled", "teacher"]
    assert by_name["baseline"]["value"] < 0.6 and by_name["distilled"]["value"] > 0.7
    assert by_name["baseline"]["memory_bytes"] == by_name["distilled"]["memory_bytes"] > 0
    assert open_engine(tmp_path / "run").classifier.labels == tuple(sorted(WORDS))
    assert f"burnish serve {result.run.id}" in result.as_text()


def test_an_encoder_is_cut_to_some_of_its_layers_and_still_read_as_one(
    recipe_of, tiny_embedder, tmp_path, monkeypatch
):
    from transformers import BertConfig, BertModel

    from burnish.models.local_models import read_manifest, write_manifest

    models = tmp_path / "models"
    shutil.copytree(tiny_embedder.path, models / "deep")
    config = BertConfig.from_pretrained(tiny_embedder.path)
    config.num_hidden_layers = 5
    BertModel(config).save_pretrained(models / "deep")
    write_manifest(models / "deep", {**read_manifest(tiny_embedder.path), "name": "deep"})
    monkeypatch.setenv("BURNISH_MODELS", str(models))

    name = prepare_student(recipe_of("model.name=deep", "distill.layers=3"))

    whole, cut = (AutoModel.from_pretrained(find_model(one).path) for one in ("deep", name))
    assert name == "deep-3-layers" and cut.config.num_hidden_layers == 3
    for place, before in enumerate((0, 2, 4)):
        ours, theirs = cut.encoder.layer[place], whole.encoder.layer[before]
        assert torch.equal(ours.output.dense.weight, theirs.output.dense.weight)
    assert Embedder(find_model(name)).encode(["where is my parcel"]).shape == (1, 128)


def test_an_encoder_is_left_with_fewer_neurons_and_refused_fewer_heads(
    recipe_of, tiny_embedder, tmp_path, monkeypatch
):
    shutil.copytree(tiny_embedder.path, tmp_path / "models" / "tiny-embedder")
    monkeypatch.setenv("BURNISH_MODELS", str(tmp_path / "models"))

    name = prepare_student(recipe_of("distill.neurons=0.5"))

    assert AutoModel.from_pretrained(find_model(name).path).config.intermediate_size == 32
    assert Embedder(find_model(name)).encode(["where is my parcel"]).shape == (1, 128)
    with pytest.raises(BadRecipe, match="bert models can't have fewer heads"):
        prepare_student(recipe_of("distill.heads=1"))


def test_an_encoder_with_fewer_word_pieces_reads_what_it_knows_as_before(
    recipe_of, tiny_embedder, tmp_path, monkeypatch
):
    shutil.copytree(tiny_embedder.path, tmp_path / "models" / "tiny-embedder")
    monkeypatch.setenv("BURNISH_MODELS", str(tmp_path / "models"))
    whole = Embedder(tiny_embedder)
    known = [row.prompt[-1].content for row in load(recipe_of()).split.train]

    name = prepare_student(recipe_of("distill.vocab_size=180"))

    fewer = Embedder(find_model(name))
    assert name.startswith("tiny-embedder-180-pieces-")
    assert AutoModel.from_pretrained(find_model(name).path).config.vocab_size == 180
    assert np.allclose(fewer.encode(known), whole.encode(known), atol=1e-6)
    with pytest.raises(BadRecipe, match="are special or"):
        prepare_student(recipe_of("distill.vocab_size=20"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (["train.objective=sft"], "generates no text"),
        (["train.objective=embed"], "trains on a teacher's text"),
        (["distill.pairs=student"], "no answers of its own"),
        (["task.kind=generation"], "needs labels"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anyone_is_asked(recipe_of, stub, changes, why):
    with pytest.raises(BadRecipe, match=why):
        distill(recipe_of(*changes))
    assert not stub.asked
