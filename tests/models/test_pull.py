"""Pulling is checked, whole, and leaves a tokenizer that is proven equal."""

import json

import pytest

from burnish.core.errors import NotFound, PullFailed
from burnish.models import local_models as local
from burnish.models.catalogue import catalogue
from burnish.models.gguf_import import TOKENIZER_TEST_TEXTS
from burnish.models.load import load_model, load_tokenizer
from burnish.models.local_models import damaged_files, find_model, list_models
from burnish.models.pull import pull


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.setenv("BURNISH_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def test_the_catalogue_knows_the_three_models_from_packages():
    known = catalogue()

    for name in ("smollm2-135m-instruct", "gemma3-270m", "all-minilm-l6-v2"):
        assert known[name].packages and known[name].licence and known[name].payload


def test_a_local_folder_is_pulled_whole_and_found_by_name(tiny_folder, empty, tmp_path):
    copy = tmp_path / "mine"
    copy.mkdir()
    for file in (tiny_folder / "tiny").iterdir():
        if file.name != local.MANIFEST:
            (copy / file.name).write_bytes(file.read_bytes())

    pulled = pull(str(copy))

    assert pulled == find_model("mine")
    assert [model.name for model in list_models()] == ["mine"]
    assert pulled.kind == "causal" and pulled.context_length == 1024
    assert damaged_files(pulled.path) == []


def test_a_damaged_file_is_noticed(tiny_folder, empty, tmp_path):
    pulled = pull(str(tiny_folder / "tiny"))
    (pulled.path / "config.json").write_text("{}")

    assert damaged_files(pulled.path) == ["config.json"]
    assert damaged_files(pull(str(tiny_folder / "tiny")).path) == []


def test_a_folder_with_pickled_weights_only_is_refused_and_nothing_is_left(empty, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"\x80")

    with pytest.raises(PullFailed, match="no safetensors"):
        pull(str(folder))

    assert not (empty / "pickled").exists()


@pytest.mark.parametrize("name", ["no-such-model", "./nowhere", "a/b/c"])
def test_a_name_that_is_nothing_is_refused_with_the_known_names(empty, name):
    with pytest.raises(NotFound, match="smollm2-135m-instruct"):
        pull(name)


def test_a_missing_model_names_the_command_that_brings_it(empty):
    with pytest.raises(NotFound, match="burnish pull tiny"):
        find_model("tiny")


@pytest.mark.model
def test_the_starter_model_is_whole_and_its_tokenizer_splits_digits(starter):
    import torch

    manifest = json.loads((starter.path / local.MANIFEST).read_text())
    tokenizer = load_tokenizer(starter)

    assert damaged_files(starter.path) == []
    assert manifest["proof"]["vocabulary"] == "49152 tokens equal"
    assert tokenizer.tokenize("\n\n1. 2026") == ["ĊĊ", "1", ".", "Ġ", "2", "0", "2", "6"]
    for text in TOKENIZER_TEST_TEXTS:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    model = load_model(starter, torch.bfloat16)
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008
