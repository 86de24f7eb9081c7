"""The proof at start: what is wrong on a fast path is found, and a slower one taken."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertLMHeadModel

from burnish.core.errors import BadRecipe
from burnish.models.load import context_length
from burnish.train.batching.packed import pack
from burnish.train.forward.path import require_packed
from burnish.train.forward.proof import changes_with_length, choose_forward_path
from burnish.train.kernels import packed_attention
from burnish.train.kernels.fused_layers import LoraProduct
from burnish.train.objectives.sft import sft_loss
from tests.fixtures.families import make_family
from tests.test_families import own_loss, rows_of_tokens

FORMATS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def chosen(name, dtype=torch.float32, model=None):
    """The path of a family's tiny model, on which its loss is the model's own."""
    model = model or make_family(name).to(dtype)
    reference = copy.deepcopy(model)
    rows = rows_of_tokens()
    path = choose_forward_path(model, model, name)
    loss = sft_loss(model, pack(rows))
    expected = sum(own_loss(reference, row) for row in rows)
    assert float(loss.detach()) == pytest.approx(
        float(expected.detach()), rel=1e-5 if dtype == torch.float32 else 0.02
    )
    return path


@FORMATS
def test_a_window_that_is_dropped_is_found(dtype, monkeypatch):
    assert chosen("mistral", dtype).is_packed
    monkeypatch.setattr(packed_attention.AttentionScores, "limits", lambda *_: False)

    path = chosen("mistral", dtype)

    assert path.rows == "padded"
    assert "log-probabilities differ" in path.reason


def test_a_window_longer_than_any_row_of_the_proof_is_shortened_for_it(monkeypatch):
    model = make_family("mistral")
    model.config.sliding_window = 4096
    monkeypatch.setattr(packed_attention.AttentionScores, "limits", lambda *_: False)

    assert choose_forward_path(model, model, "mistral").rows == "padded"
    assert model.config.sliding_window == 4096


@FORMATS
def test_a_logit_scale_that_is_dropped_is_found(dtype, monkeypatch):
    assert chosen("granite", dtype).head == "linear"
    monkeypatch.setattr("burnish.train.forward.proof._logit_scale", lambda _: 1.0)

    assert chosen("granite", dtype).head == "selected"


@FORMATS
def test_a_soft_cap_that_is_dropped_is_found(dtype, monkeypatch):
    assert chosen("gemma2", dtype).is_packed
    plain = packed_attention.AttentionScores
    monkeypatch.setattr(
        packed_attention, "AttentionScores", lambda scaling, window, _: plain(scaling, window)
    )

    assert chosen("gemma2", dtype).rows == "padded"


@FORMATS
def test_rows_that_see_each_other_are_found(dtype, monkeypatch):
    def attend(query, key, value, layout, scores):
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scores.scaling, enable_gqa=True
        ).transpose(1, 2)

    monkeypatch.setattr(packed_attention, "_attend", attend)

    path = chosen("llama", dtype)

    assert path.rows == "padded"
    assert path.reason.endswith("when rows stand together")


@FORMATS
def test_a_bias_that_a_fused_layer_drops_is_found(dtype, monkeypatch):
    def adapted():
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        torch.manual_seed(0)
        return get_peft_model(make_family("qwen2").to(dtype), config, autocast_adapter_dtype=False)

    model = adapted()
    assert choose_forward_path(model, model.get_base_model(), "qwen2").fused
    real = LoraProduct.forward
    monkeypatch.setattr(
        LoraProduct,
        "forward",
        staticmethod(lambda ctx, x, base, *rest: real(ctx, x, (base[0], None), *rest)),
    )
    model = adapted()
    path = choose_forward_path(model, model.get_base_model(), "qwen2")

    assert path.is_packed
    assert not path.fused
    assert not any("forward" in vars(layer) for layer in model.modules())


def test_the_proof_changes_no_weight_and_no_random_state():
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(make_family("gemma3").to(torch.bfloat16), config)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()

    choose_forward_path(model, model.get_base_model(), "gemma3")

    assert torch.equal(state, torch.get_rng_state())
    for name, weight in model.state_dict().items():
        assert weight.dtype == before[name].dtype
        assert torch.equal(weight, before[name]), name
    assert all(weight.grad is None for weight in model.parameters())


def test_a_model_that_reads_ahead_is_refused():
    model = BertLMHeadModel(
        BertConfig(vocab_size=100, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                   intermediate_size=16, initializer_range=0.5)
    )  # fmt: skip

    with pytest.raises(BadRecipe, match="depends on later tokens"):
        choose_forward_path(model, model, "bert")


def test_what_needs_the_packed_path_is_refused_without_it():
    model = make_family("lfm2")
    choose_forward_path(model, model, "lfm2")

    with pytest.raises(BadRecipe, match="needs the packed forward path, on which lfm2"):
        require_packed(model, "lfm2", "Matching a teacher's layers")


def test_rows_longer_than_where_positions_change_are_trained_one_by_one():
    model = make_family("llama")
    model.config.rope_parameters = {
        "rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4,
        "original_max_position_embeddings": 64,
    }  # fmt: skip

    assert changes_with_length(model.config, 64) == ""
    assert "positions change" in changes_with_length(model.config, 65)
    assert choose_forward_path(model, model, "llama", longest=65).rows == "single"
    assert context_length(model.config) == 64
