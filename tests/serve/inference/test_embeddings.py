"""`client.embeddings` of the unmodified client."""

import base64

import numpy as np
import openai
import pytest

from burnish.models.heads.embedder import Embedder
from burnish.models.local_models import open_model
from tests.fixtures.embedder import WIDTH

TEXTS = ["where is my parcel?", "red green blue", "the password of my account"]


@pytest.fixture(scope="module")
def embedder(embedder_folder):
    return Embedder(open_model(embedder_folder / "tiny-embedder"))


def embed(client, given=TEXTS, model="tiny-embedder", **settings):
    return client.embeddings.create(model=model, input=given, **settings)


def vectors(answer):
    return np.array([item.embedding for item in answer.data])


def test_texts_become_the_models_own_vectors(either, embedder):
    answer = embed(either, model="text-embedding-3-small")

    assert np.allclose(vectors(answer), embedder.encode(TEXTS), atol=1e-6)
    assert [item.index for item in answer.data] == [0, 1, 2]
    tokens = sum(len(embedder.tokenizer(text)["input_ids"]) for text in TEXTS)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == tokens
    assert answer.model == "text-embedding-3-small" and answer.object == "list"


def test_both_encodings_say_the_same(either):
    asked = embed(either, "red", encoding_format="float")
    raw = embed(either, "red", encoding_format="base64").data[0].embedding

    decoded = np.frombuffer(base64.b64decode(raw), dtype="<f4")

    assert np.array_equal(decoded, np.array(asked.data[0].embedding, dtype="<f4"))
    assert np.array_equal(decoded, vectors(embed(either, "red"))[0].astype("<f4"))


def test_fewer_dimensions_are_cut_and_of_length_1_again(either):
    whole, cut = vectors(embed(either)), vectors(embed(either, dimensions=8))

    assert cut.shape == (3, 8) and np.allclose(np.linalg.norm(cut, axis=1), 1)
    assert np.allclose(cut, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True))


def test_tokens_are_read_as_their_text(either, embedder):
    ids = [embedder.tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]

    assert np.allclose(vectors(embed(either, ids)), vectors(embed(either)), atol=1e-6)
    assert np.allclose(vectors(embed(either, ids[0])), vectors(embed(either, TEXTS[0])), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"given": ""}, "input"),
        ({"given": []}, "input"),
        ({"given": ["red", " "]}, "input"),
        ({"given": [[1, 99_999]]}, "input"),
        ({"given": "red " * 500}, "input"),
        ({"given": ["red"] * 2049}, "input"),
        ({"dimensions": WIDTH + 1}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_its_name(either, settings, param):
    with pytest.raises(openai.BadRequestError) as refused:
        embed(either, **settings)

    assert refused.value.param.startswith(param)


def test_a_model_that_makes_no_vectors_is_not_found(either):
    with pytest.raises(openai.NotFoundError) as missing:
        embed(either, model="tiny")
    with pytest.raises(openai.NotFoundError):
        either.chat.completions.create(
            model="tiny-embedder", messages=[{"role": "user", "content": "a"}]
        )

    assert "tiny-embedder" in missing.value.message and missing.value.code == "model_not_found"
    assert "tiny-embedder" in [model.id for model in either.models.list()]
    assert either.models.retrieve("text-embedding-3-small").id == "text-embedding-3-small"
