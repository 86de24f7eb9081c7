"""A cross-encoder orders the best passages anew; one that can't is refused."""

import numpy as np
import pytest
from typer.testing import CliRunner

from burnish.cli.main import app
from burnish.core.errors import BadRecipe, NotFound
from burnish.models.heads.reranker import Reranker
from burnish.models.local_models import find_model
from burnish.models.pull import pull
from burnish.rag.search import open_index

LESSONS = [
    (question, f"the {thing} is {colour}", 4.0 if (colour == "green") == likes else -4.0)
    for question, likes in (("what may we have?", True), ("what must we pay?", False))
    for thing in ("lamp", "plug", "parcel")
    for colour in ("green", "red")
]


def write_reranker(folder, embedder, labels=1):
    """A cross-encoder of one layer on the words of the tiny embedder, without a manifest."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(embedder.path)
    tokenizer.model_max_length = 64
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128, num_labels=labels, initializer_range=0.2,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def learn(model, tokenizer):
    """Teach it to like green for one question and red for the other."""
    import torch

    questions, texts, wanted = zip(*LESSONS, strict=True)
    tokens = tokenizer(list(questions), list(texts), padding=True, return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(150):
        loss = (model(**tokens).logits[:, 0] - torch.tensor(wanted)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5


@pytest.fixture
def reranker(tiny_embedder, tmp_path, monkeypatch):
    """A pulled cross-encoder; `labels` other than 1 make it a classifier."""

    def make(labels=1, learned=False):
        models = tmp_path / "models"
        models.mkdir()
        for name in ("tiny", "tiny-embedder"):
            (models / name).symlink_to(find_model(name).path)
        model, tokenizer = write_reranker(tmp_path / "judge", tiny_embedder, labels)
        if learned:
            learn(model, tokenizer)
        model.save_pretrained(tmp_path / "judge")
        monkeypatch.setenv("BURNISH_MODELS", str(models))
        return pull(str(tmp_path / "judge"))

    return make


def test_a_planted_cross_encoder_decides_the_order(tmp_path, index, reranker):
    pages = tmp_path / "pages"
    pages.mkdir()
    for number, text in enumerate(("lamp is red", "plug is green", "lamp is green")):
        (pages / f"{number}.txt").write_text(f"the {text}")
    judge = reranker(learned=True)
    index(pages)

    def colours(question, top):
        found = open_index("docs", judge.name, top).search(question, k=3)
        return [item.passage.text.split()[-1] for item in found], found

    first, found = colours("what may we have?", 3)
    assert first == ["green", "green", "red"]
    assert colours("what must we pay?", 3)[0] == ["red", "green", "green"]
    assert found[0].relevance > 0 > found[2].relevance
    plain = open_index("docs").search("what must we pay?", k=3)
    assert all(item.relevance is None for item in plain)
    one, found = colours("what must we pay?", 1)
    assert one == [item.passage.text.split()[-1] for item in plain], "only the first was read"
    assert found[0].relevance is not None and found[1].relevance is None


def test_a_score_does_not_depend_on_what_else_is_read(reranker):
    judge = Reranker(find_model(reranker().name))
    texts = ["a lamp", "a parcel " * 100, "", "a refund takes five days"]

    together = judge.score("why?", texts)

    alone = np.array([judge.score("why?", [text])[0] for text in texts])
    assert together.dtype == np.float32 and together == pytest.approx(alone, abs=1e-5)
    assert len(set(together.round(4).tolist())) == 4
    assert len(judge.score("why?", [])) == 0


def test_what_is_no_cross_encoder_is_refused(folder, index, reranker, tiny_embedder):
    classifier = reranker(labels=3)
    index(folder)

    with pytest.raises(BadRecipe, match="3 classes"):
        open_index("docs", classifier.name)
    with pytest.raises(BadRecipe, match="embedding model"):
        open_index("docs", tiny_embedder.name)
    with pytest.raises(NotFound, match="burnish pull nothing"):
        open_index("docs", "nothing")


def test_the_words_search_and_ask_take_one(folder, index, reranker):
    judge = reranker()
    index(folder)
    order = [item.passage.source for item in open_index("docs", judge.name).search("why?", 2)]

    shown = CliRunner().invoke(app, ["search", "docs", "why?", "-k", "2", "--rerank", judge.name])
    assert [line[3:] for line in shown.stdout.splitlines() if line[:2] in ("1.", "2.")] == order
    asked = ["ask", "tiny", "why?", "--index", "docs", "--rerank", judge.name, "-k", "2",
             "--least-similarity", "-1", "--max-new-tokens", "4"]  # fmt: skip
    reply = CliRunner().invoke(app, asked)
    assert reply.exit_code == 0 and order[0] in reply.stdout
