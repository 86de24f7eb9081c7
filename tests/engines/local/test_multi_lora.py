"""Adapters of every kind on one base: each row of a pass sees its own, whatever is beside it."""

import itertools

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model

from burnish.engines.local.multi_lora import MultiLoraModel
from burnish.engines.scheduling.model_pool import open_model_pool
from burnish.models.artifact import save_artifact
from burnish.models.load import load_model, load_tokenizer

IDS = torch.tensor([[5, 6, 7, 8, 9]])
LORA = {"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM"}
#: What adapters can be. The first four may stand beside others.
KINDS = {
    "plain": LoraConfig(**LORA, target_modules="all-linear"),
    "wide": LoraConfig(**{**LORA, "r": 9}, target_modules="all-linear", use_rslora=True),
    "uneven": LoraConfig(
        **LORA, target_modules="all-linear", rank_pattern={"q_proj": 2, "1.mlp.up_proj": 7},
        alpha_pattern={"q_proj": 9},
    ),
    "few": LoraConfig(**LORA, target_modules=["q_proj"], lora_dropout=0.5),
    "dora": LoraConfig(**LORA, target_modules="all-linear", use_dora=True),
    "words": LoraConfig(**LORA, target_modules=["q_proj", "embed_tokens"]),
    "saved": LoraConfig(**LORA, target_modules=["q_proj"], modules_to_save=["norm"]),
    "biased": LoraConfig(**LORA, target_modules=["q_proj"], lora_bias=True),
}  # fmt: skip


def folder_of(tiny, place, shape):
    """An adapter with loud random weights."""
    model = get_peft_model(load_model(tiny, torch.float32), shape)
    torch.manual_seed(len(str(place)))
    with torch.no_grad():
        for weight in (own for own in model.parameters() if own.requires_grad):
            weight.add_(torch.randn_like(weight) * 0.3)
    save_artifact(place, model, load_tokenizer(tiny), tiny, {"run": place.name, "system": None})
    return place


@pytest.fixture
def folders(tiny, tmp_path):
    return {kind: folder_of(tiny, tmp_path / kind, shape) for kind, shape in KINDS.items()}


@pytest.fixture
def alone(tiny, folders):
    """Logits of each adapter, and of the base, with nothing else in memory and PEFT's own code."""
    base = load_model(tiny, torch.float32).eval()
    found = {None: base(IDS).logits}
    for kind, folder in folders.items():
        model = PeftModel.from_pretrained(load_model(tiny, torch.float32), folder).eval()
        found[kind] = model(IDS).logits
    for one, other in itertools.combinations(found.values(), 2):
        assert not torch.allclose(one, other, atol=1e-2)
    return found


@torch.inference_mode()
@pytest.mark.parametrize("turn", range(3))
def test_every_row_sees_its_own_adapter(tiny, folders, alone, turn):
    weights = MultiLoraModel(load_model(tiny, torch.float32))
    order = [*list(folders)[turn * 2 :], *list(folders)[: turn * 2]]
    keys = {kind: weights.add(folders[kind], torch.float32) for kind in order}
    together = [kind for kind in order if weights.can_share(keys[kind])]
    assert set(together) == {"plain", "wide", "uneven", "few"}

    rows = [None, *together, None, *reversed(together), together[0]]
    for kind in [*order, None]:  # what was active before leaves no trace
        with weights.only_adapter(keys.get(kind)):
            assert torch.allclose(weights.model(IDS).logits, alone[kind], atol=1e-4)
        with weights.rows_with_adapters([keys.get(row) for row in rows]):
            logits = weights.model(IDS.expand(len(rows), -1)).logits
        for row, own in zip(rows, logits, strict=True):
            assert torch.allclose(own, alone[row][0], atol=1e-4), (row, kind)


@torch.inference_mode()
def test_a_broken_adapter_breaks_its_own_rows_only(tiny, folders, alone):
    weights = MultiLoraModel(load_model(tiny, torch.float32))
    keys = [weights.add(folders[kind], torch.float32) for kind in ("plain", "wide")]
    for product in weights._products[keys[0]].values():
        product.a.fill_(torch.nan)

    with weights.rows_with_adapters([None, *keys]):
        base, broken, wide = weights.model(IDS.expand(3, -1)).logits

    assert broken.isnan().all()
    assert torch.allclose(base, alone[None][0], atol=1e-4)
    assert torch.allclose(wide, alone["wide"][0], atol=1e-4)


def test_an_adapter_that_is_no_lora_has_weights_of_its_own(tiny, folders, tmp_path):
    shape = IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"],
        task_type="CAUSAL_LM",
    )  # fmt: skip
    scaled = folder_of(tiny, tmp_path / "scaled", shape)

    fleet = open_model_pool([str(folders["plain"]), str(scaled), tiny.name])

    assert fleet.find("plain").weights is fleet.find(tiny.name).weights
    assert fleet.find("scaled").weights is not fleet.find("plain").weights
    fleet.add("again", scaled)
