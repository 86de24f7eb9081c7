"""A GGUF file says what the weights and the tokenizer say."""

import json

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as Fast

from burnish.core.records import Message, Row
from burnish.engines.external.base import LaunchOptions
from burnish.engines.external.llamacpp import LlamaCppEngine
from burnish.engines.local.engine import LocalEngine
from burnish.engines.local.multi_lora import MultiLoraModel
from burnish.export.formats.gguf import write_gguf
from burnish.export.formats.gguf_quants import FALLBACKS, QUANTS, quantize_matrix
from burnish.export.formats.gguf_tokenizer import PRE_TOKENIZER_RULES, WHOLE_WORDS, CannotExport
from burnish.models.gguf_import import TOKENIZER_TEST_TEXTS
from tests.conftest import CHATML, CORPUS


def llama(tokenizer, **changes):
    torch.manual_seed(3)
    config = LlamaConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "initializer_range": 0.2,
            **changes,
        }
    )
    return LlamaForCausalLM(config).eval()


def likelihoods(model, tokenizer, file, quant="f32"):
    """Log-probabilities of some answers, by llama.cpp and by us."""
    write_gguf(file, model, tokenizer, quant, "x")
    engine = LlamaCppEngine(file, tokenizer, "x", None, LaunchOptions(threads=1))
    rows = [Row((Message("user", text * 8), Message("assistant", text))) for text in CORPUS]
    try:
        theirs = engine.log_likelihood(rows)
    finally:
        engine.close()
    ours = LocalEngine(MultiLoraModel(model), tokenizer, "x").log_likelihood(rows)
    return [log for log, _ in theirs], [log for log, _ in ours]


ROPES = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}


@pytest.mark.parametrize("rope", ROPES)
def test_rotary_positions_are_the_model_s_own(rope, tiny_tokenizer, tmp_path):
    model = llama(tiny_tokenizer, rope_parameters=ROPES[rope])

    theirs, ours = likelihoods(model, tiny_tokenizer, tmp_path / "x.gguf")

    assert theirs == pytest.approx(ours, rel=2e-3)


def test_an_output_that_is_not_tied_and_a_wider_head(tiny_tokenizer, tmp_path):
    model = llama(tiny_tokenizer, tie_word_embeddings=False, head_dim=32)

    theirs, ours = likelihoods(model, tiny_tokenizer, tmp_path / "x.gguf")

    assert theirs == pytest.approx(ours, rel=2e-3)


@pytest.mark.parametrize("name", PRE_TOKENIZER_RULES)
def test_tokens_are_those_of_llama_cpp(name, tmp_path):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = PRE_TOKENIZER_RULES[name]
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([*CORPUS, *TOKENIZER_TEST_TEXTS * 3], trainer)
    state = json.loads(backend.to_str())
    state["model"]["ignore_merges"] = name in WHOLE_WORDS
    backend = Tokenizer.from_str(json.dumps(state))
    tokenizer = Fast(tokenizer_object=backend, eos_token="<|im_end|>", bos_token="<|im_start|>")
    tokenizer.chat_template = CHATML
    write_gguf(tmp_path / "x.gguf", llama(tokenizer), tokenizer, "f16", "x")
    engine = LlamaCppEngine(tmp_path / "x.gguf", tokenizer, "x", None, LaunchOptions(threads=1))

    different = []
    for text in (
        *TOKENIZER_TEST_TEXTS,
        *CORPUS,
        "<|im_start|>user\n1 234<|im_end|>\n",
        "a  b   c\r\n\r\n 12",
    ):
        body = {"content": text, "add_special": False, "parse_special": True}
        theirs = engine.child.ask("/tokenize", body)["tokens"]
        if theirs != tokenizer(text, add_special_tokens=False)["input_ids"]:
            different.append(text)
    engine.close()

    assert different == []


@pytest.mark.parametrize("name", QUANTS)
def test_every_number_format_gives_the_weights_back_nearly(name, tiny_tokenizer, tmp_path):
    model = llama(tiny_tokenizer, hidden_size=256, num_hidden_layers=3)

    written = write_gguf(tmp_path / "x.gguf", model, tiny_tokenizer, name, "x")

    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    tensor = found["blk.1.ffn_gate.weight"]
    back = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    error = np.abs(back - model.model.layers[1].mlp.gate_proj.weight.detach().numpy()).mean()
    assert tensor.tensor_type == QUANTS[name].most
    assert error < 0.2 * (2.5 / 2 ** int(name[1]) if name[0] == "q" else 0.01)
    assert written.fallen_back == 0


def test_k_quants_fall_back_where_rows_are_no_multiple_of_256(tiny_tokenizer, tmp_path):
    written = write_gguf(tmp_path / "x.gguf", llama(tiny_tokenizer), tiny_tokenizer, "q4_k_m", "x")

    # Only the down projections (512 wide) fit; in a model of two layers both are the finer ones.
    assert written.kinds == {"Q8_0": 1 + 1, "Q5_0": 11, "Q6_K": 1, "Q4_K": 1}
    assert written.fallen_back == 13


@pytest.mark.parametrize("kind", FALLBACKS, ids=lambda kind: kind.name)
def test_blocks_made_by_ggml_are_read_back_by_gguf(kind):
    weights = np.random.default_rng(0).normal(size=(4, 512)).astype(np.float32)

    back = gguf.quants.dequantize(quantize_matrix(weights, kind), kind)

    assert np.abs(back - weights).mean() < 0.08
    assert np.abs(back - weights).max() > 0


def test_what_llama_cpp_would_read_otherwise_is_refused(tiny_tokenizer, tmp_path):
    other = GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(CannotExport, match="gpt2"):
        write_gguf(tmp_path / "x.gguf", other, tiny_tokenizer, "f16", "x")

    backend = Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str())
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    odd = Fast(tokenizer_object=backend, eos_token="<|im_end|>")
    odd.chat_template = CHATML
    with pytest.raises(CannotExport, match="splits text"):
        write_gguf(tmp_path / "x.gguf", llama(odd), odd, "f16", "x")
