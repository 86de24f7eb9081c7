"""The proof when a model is opened: a fast way that answers wrongly is found."""

import pytest
import torch

from burnish.core.errors import BadRecipe
from burnish.core.records import Message, Prompt
from burnish.engines.local import kv_cache
from burnish.engines.local.engine import LocalEngine
from burnish.engines.local.multi_lora import MultiLoraModel
from burnish.engines.local.path import choose_decoding_path
from tests.fixtures.families import make_family

LABELS = ("parcel", "refund of money", "refund of an order", "lamp")


def test_attention_that_ignores_its_mask_is_found(monkeypatch):
    monkeypatch.setattr(kv_cache, "sdpa_attention_forward", None)
    model = make_family("llama")

    assert choose_decoding_path(model, "llama").attention == "eager"


def test_rows_of_the_cache_in_the_wrong_place_are_found(monkeypatch):
    real = kv_cache.GrowingLayer.append_rows

    def append(self, other):
        real(self, other)
        self.keys = self.keys.flip(0)

    monkeypatch.setattr(kv_cache.GrowingLayer, "append_rows", append)

    path = choose_decoding_path(make_family("llama"), "llama")

    assert path.requests == "cached"
    assert path.reason == "a batch of prompts gives other logits"


def test_a_prefix_that_is_read_wrongly_is_left_out(monkeypatch):
    real = kv_cache.GrowingCache.__init__
    monkeypatch.setattr(
        kv_cache.GrowingCache,
        "__init__",
        lambda self, begin=(): real(self, ((keys, 2 * values) for keys, values in begin)),
    )

    path = choose_decoding_path(make_family("llama"), "llama")

    assert path.requests == "batched"
    assert not path.prefixes


@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "bloom", "lfm2", "mamba", "bamba"])
def test_a_choice_is_the_likeliest_whole_text(name, tiny_tokenizer):
    engine = LocalEngine(MultiLoraModel(make_family(name)), tiny_tokenizer, name)
    said = [Message("user", "the lamp is red"), Message("user", "late")]
    prompts = [Prompt((message,), max_new_tokens=8, choices=LABELS) for message in said]

    found = engine.answer(prompts)

    reference = make_family(name)
    for prompt, answer in zip(prompts, found, strict=True):
        ids = list(engine.build_request(prompt).ids)
        sums = []
        for label in LABELS:
            own = [*tiny_tokenizer(label)["input_ids"], tiny_tokenizer.eos_token_id]
            whole = torch.tensor([[*ids, *own]])
            with torch.no_grad():
                logs = reference(input_ids=whole, use_cache=False).logits[0].log_softmax(-1)
            places = range(len(ids), whole.shape[1])
            sums.append(sum(float(logs[place - 1, whole[0, place]]) for place in places))
        assert answer.text == LABELS[sums.index(max(sums))]


def test_a_model_that_reads_ahead_is_not_opened():
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(
        vocab_size=400, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, initializer_range=0.5,
    )  # fmt: skip

    with pytest.raises(BadRecipe, match="depends on later tokens"):
        choose_decoding_path(BertLMHeadModel(config), "bert")
