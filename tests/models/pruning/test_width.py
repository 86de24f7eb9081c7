"""Fewer neurons and heads: what is left computes what the whole model does without the others."""

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from burnish.core.errors import BadRecipe
from burnish.models.pruning.width import (
    attentions_of,
    keep_groups,
    keep_neurons,
    measure_usage,
    mlps_of,
)

SHAPE = {
    "vocab_size": 50, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 3, "initializer_range": 0.2,
}  # fmt: skip
TEXTS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 12}),
}


def whole(family):
    kind, config, more = FAMILIES[family]
    torch.manual_seed(0)
    model = kind(config(**SHAPE, **more)).eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.2)
    return model


def silenced(part, kept):
    """A hook that lets only these units through."""
    mask = torch.zeros(part.count)
    mask[kept] = 1
    mask = mask.repeat_interleave(part.columns)
    part.out.register_forward_pre_hook(lambda module, given: (given[0] * mask,))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_whole_model_with_the_others_silent(family, tmp_path):
    model, masked = whole(family), whole(family)
    mlps, attentions = mlps_of(model), attentions_of(model)
    used = measure_usage(model, TEXTS, [*mlps, *attentions])

    keep_neurons(model, 32, used[:3])
    keep_groups(model, 1, used[3:])
    model.save_pretrained(tmp_path)

    for part, own in zip([*mlps_of(masked), *attentions_of(masked)], used, strict=True):
        silenced(part, own.topk(32 if part.columns == 1 else 1).indices)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    ids = torch.tensor(TEXTS[:1])
    with torch.no_grad():
        found, expected = loaded(ids).logits, masked(ids).logits
    assert torch.allclose(found, expected, atol=1e-5)
    config = loaded.config
    assert (config.intermediate_size, config.num_key_value_heads) == (32, 1)
    assert config.num_attention_heads == 2
    assert config.head_dim == (12 if family == "qwen3" else 8)
    assert loaded.generate(ids, max_new_tokens=2, min_new_tokens=2).shape == (1, 7)


def test_what_is_used_is_the_mean_activation_and_the_length_of_what_heads_give():
    model = whole("llama")
    given = {}
    layer = model.model.layers[1]
    for name, matrix in (("mlp", layer.mlp.down_proj), ("attention", layer.self_attn.o_proj)):
        matrix.register_forward_pre_hook(
            lambda module, inputs, name=name: given.setdefault(name, []).append(inputs[0][0])
        )

    found = measure_usage(model, TEXTS, [mlps_of(model)[1], attentions_of(model)[1]])

    neurons, heads = torch.cat(given["mlp"]), torch.cat(given["attention"]).unflatten(-1, (6, 8))
    assert torch.allclose(found[0], neurons.abs().mean(0), atol=1e-6)
    lengths = heads.norm(dim=-1).mean(0)
    assert torch.allclose(found[1], lengths[0::2] + lengths[1::2], atol=1e-6)


def test_all_kept_is_the_same_model():
    model, same = whole("llama"), whole("llama")
    used = measure_usage(model, TEXTS, [*mlps_of(model), *attentions_of(model)])

    keep_neurons(model, 64, used[:3])
    keep_groups(model, 3, used[3:])

    for name, weight in same.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)


def test_an_encoder_loses_neurons_and_is_refused_fewer_heads(tmp_path):
    shape = {key: SHAPE[key] for key in SHAPE if key != "num_key_value_heads"}
    torch.manual_seed(0)
    model = BertModel(BertConfig(**shape)).eval()
    masked = BertModel(BertConfig(**shape)).eval()
    masked.load_state_dict(model.state_dict())
    used = measure_usage(model, TEXTS, mlps_of(model))

    keep_neurons(model, 32, used)
    model.save_pretrained(tmp_path)

    for part, own in zip(mlps_of(masked), used, strict=True):
        silenced(part, own.topk(32).indices)
    loaded, ids = AutoModel.from_pretrained(tmp_path), torch.tensor(TEXTS[:1])
    with torch.no_grad():
        found, expected = (one(ids).last_hidden_state for one in (loaded, masked))
    assert torch.allclose(found, expected, atol=1e-5)
    with pytest.raises(BadRecipe, match="bert models can't have fewer heads"):
        attentions_of(model)


def test_models_that_are_built_otherwise_are_refused():
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2))
    with pytest.raises(BadRecipe, match="neurons of gpt2 models"):
        mlps_of(gpt)
    # Its norms of queries and keys go over all heads at once.
    with pytest.raises(BadRecipe, match="olmo2 models"):
        attentions_of(Olmo2ForCausalLM(Olmo2Config(**SHAPE)))
    odd = LlamaForCausalLM(LlamaConfig(**{**SHAPE, "num_attention_heads": 8,
                                          "num_key_value_heads": 8}))  # fmt: skip
    with pytest.raises(
        BadRecipe, match=r"8 key-value heads; 5 can't be left\.\n.*one of 1, 2, 3, 4, 6, 8"
    ):
        keep_groups(odd, 5, [])
