"""Vectors are those that the model's own description asks for."""

import json

import numpy as np
import pytest
import torch

from burnish.core.errors import BadRecipe
from burnish.models.heads.embedder import Embedder
from burnish.models.local_models import find_model
from tests.fixtures.embedder import WIDTH, write_embedder

TEXTS = ["a parcel", "", "Where is my money? I want it back today, please.", "lamp " * 400, "ü"]


def test_a_vector_is_the_mean_of_its_tokens_at_length_one(tiny_embedder):
    embedder = Embedder(tiny_embedder)

    found = embedder.encode(TEXTS, batch_size=2)

    assert found.shape == (5, WIDTH) and found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    for text, vector in zip(TEXTS, found, strict=True):
        ids = embedder.tokenizer(text, truncation=True, max_length=256)["input_ids"]
        assert len(ids) <= 256
        with torch.inference_mode():
            states = embedder.model(torch.tensor([ids])).last_hidden_state[0]
        mean = states.mean(0).numpy()
        assert np.allclose(vector, mean / np.linalg.norm(mean), atol=1e-5), "padding counts not"


def test_token_spans_lie_in_the_text(tiny_embedder):
    text = "Where is  my parcel?\nHere."

    spans = Embedder(tiny_embedder).token_spans(text)

    assert "".join(text[begin:end] for begin, end in spans) == "".join(text.split())


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"pooling": "pooling_mode_cls_token"}, "cls_token"),
        ({"modules": ("models.Transformer", "models.Pooling")}, "Transformer, Pooling"),
        ({"modules": ("models.Transformer", "models.Pooling", "models.Dense")}, "Dense"),
    ],
)
def test_a_model_that_asks_for_something_else_is_refused(tmp_path, monkeypatch, how, said):
    monkeypatch.setenv("BURNISH_MODELS", str(tmp_path))
    write_embedder(tmp_path / "other", **how)

    with pytest.raises(BadRecipe, match=said):
        Embedder(find_model("other"))


def test_a_model_that_writes_is_no_embedder(tiny):
    with pytest.raises(BadRecipe, match="causal"):
        Embedder(tiny)


@pytest.mark.model
def test_the_real_one_gives_the_published_similarities(minilm):
    """The example on the model's page: sentence-transformers prints these three cosines."""
    listed = json.loads((minilm.path / "modules.json").read_text())
    assert [item["type"].rpartition(".")[2] for item in listed] == [
        "Transformer", "Pooling", "Normalize",
    ]  # fmt: skip
    one, two, three = Embedder(minilm).encode(
        ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    )

    assert [one @ two, one @ three, two @ three] == pytest.approx(
        [0.6660, 0.1046, 0.1411], abs=1e-3
    )
