"""An adapter as a GGUF file does what it does in PEFT, and only where it is asked to."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from burnish.core.records import Message, Row
from burnish.engines.external.base import LaunchOptions
from burnish.engines.external.llamacpp import LlamaCppEngine
from burnish.engines.local.engine import LocalEngine
from burnish.engines.local.multi_lora import MultiLoraModel
from burnish.export.formats.gguf import write_gguf
from burnish.export.formats.gguf_lora import write_gguf_adapter
from burnish.export.formats.gguf_tokenizer import CannotExport
from burnish.models.load import load_model
from tests.engines.local.test_engine import QUESTIONS, ask


def adapted(local, **settings):
    torch.manual_seed(5)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **settings)
    model = get_peft_model(load_model(local, torch.float32), config)
    for name, part in model.named_parameters():
        if "lora_" in name:
            part.data.normal_(0, 0.2)
    return model.eval()


@pytest.fixture
def served(tiny, tiny_model, tiny_tokenizer, tmp_path):
    """Serve the base with an adapter of these settings; also gives the adapted model."""
    engines = []

    def serve(**settings):
        model = adapted(tiny, **settings)
        write_gguf(tmp_path / "base.gguf", tiny_model, tiny_tokenizer, "f32", "x")
        write_gguf_adapter(tmp_path / "adapter.gguf", model)
        files = (tmp_path / "base.gguf", tmp_path / "adapter.gguf")
        given = (tiny_tokenizer, "x", None, LaunchOptions(threads=1), files[1])
        engines.append(LlamaCppEngine(files[0], *given))
        return engines[-1], model

    yield serve
    for engine in engines:
        engine.close()


@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True, "lora_alpha": 2}, {"rank_pattern": {"q_proj": 2}}]
)
def test_an_adapter_is_scaled_as_in_peft(settings, served, tiny_model, tiny_tokenizer):
    engine, model = served(**settings)
    rows = [Row((Message("user", text), Message("assistant", "parcel"))) for text in QUESTIONS]

    theirs = [log for log, _ in engine.log_likelihood(rows)]

    ours = LocalEngine(
        MultiLoraModel(model), tiny_tokenizer, "x", adapter="default"
    ).log_likelihood(rows)
    base = LocalEngine(MultiLoraModel(tiny_model), tiny_tokenizer, "x").log_likelihood(rows)
    assert theirs == pytest.approx([log for log, _ in ours], rel=5e-3)
    assert theirs != pytest.approx([log for log, _ in base], rel=5e-2)


def test_a_request_without_the_adapter_does_not_see_it(served, tiny_model, tiny_tokenizer):
    engine, _ = served()
    prompt = ask(QUESTIONS[0] * 4)
    ids = LocalEngine(MultiLoraModel(tiny_model), tiny_tokenizer, "x").build_request(prompt).ids

    def made(scale):
        lora = [{"id": 0, "scale": scale}]
        return engine.complete(ids, n_predict=12, temperature=0, lora=lora)["tokens"]

    alone = {scale: made(scale) for scale in (0.0, 1.0)}
    again = [made(scale) for scale in (1.0, 0.0, 1.0, 1.0, 0.0)]

    assert alone[0.0] != alone[1.0]
    assert again == [alone[scale] for scale in (1.0, 0.0, 1.0, 1.0, 0.0)]


def test_dora_is_refused(tiny, tmp_path):
    with pytest.raises(CannotExport, match="plain LoRA"):
        write_gguf_adapter(tmp_path / "adapter.gguf", adapted(tiny, use_dora=True))
