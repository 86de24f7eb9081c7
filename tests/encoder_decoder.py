"""A tiny T5 with random weights and a tokenizer as T5's: texts end with their own token."""

import json
import random
from functools import partial
from itertools import permutations

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from burnish.core.recipe import make_recipe
from burnish.models.local import find_model
from burnish.models.pull import pull

WORDS = ("red", "green", "blue", "apple", "pear", "plum", "one", "two")


def copies():
    """Questions of three words, no two alike, and answers with the same words."""
    texts = [" ".join(words) for words in permutations(WORDS, 3)]
    random.Random(0).shuffle(texts)
    return [{"prompt": text, "completion": text} for text in texts]


def write_t5(folder, tokenizer):
    """A T5 of some 250,000 weights, as its files lie in a folder; `tokenizer` is the tiny one."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    end = ("<|im_end|>", tokenizer.eos_token_id)
    backend.post_processor = TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    own = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=end[0], pad_token="<|endoftext|>"
    )
    own.save_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(own), d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
        dropout_rate=0.0, decoder_start_token_id=own.pad_token_id, pad_token_id=own.pad_token_id,
        eos_token_id=own.eos_token_id, n_positions=128,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory, tiny_folder, tiny_tokenizer):
    """A models folder with `tiny` and `tiny-t5`, pulled from where it lay."""
    models, source = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("t5") / "tiny-t5"
    (models / "tiny").symlink_to(tiny_folder / "tiny")
    write_t5(source, tiny_tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BURNISH_MODELS", str(models))
        pull(str(source))
    return models


def recipe_in(folder, *changes, model="tiny-t5"):
    """Words to be said again; the rows are written into the folder."""
    files = {}
    for name, rows in (("train", copies()[:240]), ("test", copies()[-24:])):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        files[name] = [str(file)]
    usual = (
        "train.objective=seq2seq", "train.method=full", "train.learning_rate=5e-3",
        "train.epochs=8", "train.batch_size=16", "train.threads=1", "model.dtype=float32",
        "train.patience=0", "task.kind=generation", "evaluate.max_new_tokens=12",
    )  # fmt: skip
    values = {"model": {"name": model}, "data": {**files, "near_duplicate": 1.0}}
    return make_recipe(values, [*usual, *changes])


@pytest.fixture(scope="session")
def learnt_t5(t5_folder, tmp_path_factory):
    """The report of a training that has learnt to say words again; its run is a folder."""
    from burnish.train.run import train

    folder = tmp_path_factory.mktemp("learnt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BURNISH_MODELS", str(t5_folder))
        patch.setenv("BURNISH_HOME", str(folder / "home"))
        return train(recipe_in(folder), out=folder / "again")


@pytest.fixture
def tiny_t5(t5_folder, monkeypatch):
    """The T5, found by its name, as `tiny` is."""
    monkeypatch.setenv("BURNISH_MODELS", str(t5_folder))
    return find_model("tiny-t5")


@pytest.fixture
def recipe(tiny_t5, tmp_path):
    """Words to be said again, for the tiny T5."""
    return partial(recipe_in, tmp_path)
