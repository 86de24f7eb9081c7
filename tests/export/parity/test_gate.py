"""An export that answers like the trained model passes; each planted fault is caught."""

import copy

import pytest

from burnish.engines.external.base import LaunchOptions
from burnish.export.formats import gguf as gguf_room
from burnish.export.formats import gguf_tokenizer as vocabulary
from burnish.export.formats.registry import write_export
from burnish.export.parity.clients import open_served_model
from burnish.export.parity.gate import measure_parity
from burnish.models.merge import load_merged_model


def judged(artifact, asked, trained, settings):
    door = open_served_model(artifact, LaunchOptions(1))
    try:
        return measure_parity(door, asked, trained, settings)
    finally:
        door.close()


@pytest.mark.parametrize(("to", "quant"), [("gguf", "f16"), ("gguf", "q8_0"), ("gguf-lora", "f16")])
def test_a_faithful_gguf_file_may_ship(to, quant, first, asked, trained, settings, tmp_path):
    assert [r.text for r in trained.free] == [row.answer for row in asked.rows]

    parity = judged(write_export(tmp_path / "x", first, to, quant), asked, trained, settings)

    assert parity.shippable, parity.against
    assert parity.facts["prompts"]["trained_sha256"] == parity.facts["prompts"]["exported_sha256"]
    assert parity.facts["token_agreement"] == 1.0
    assert parity.facts["broken"]["unfinished"] == {"trained": 0, "exported": 0}


def merged_into_four_bits(monkeypatch):
    from burnish.export.formats import registry as formats
    from burnish.models.quantization.nf4 import round_trip

    def merged(artifact):
        model, tokenizer = load_merged_model(artifact)
        round_trip(model, double_quant=True)
        return model, tokenizer

    monkeypatch.setattr(formats, "load_merged_model", merged)
    return "points lost"


def wrong_template(monkeypatch):
    return _with_tokenizer(
        monkeypatch,
        lambda t: setattr(t, "chat_template", t.chat_template.replace("assistant", "user")),
        "different tokens than in training",
    )


def doubled_bos(monkeypatch):
    return _with_tokenizer(
        monkeypatch,
        lambda t: setattr(t, "chat_template", "{{ bos_token }}" + t.chat_template),
        "different tokens than in training",
    )


def missing_end_of_turn(monkeypatch):
    def nothing(writer, tokenizer):
        writer.add_bos_token_id(tokenizer.bos_token_id)
        writer.add_eos_token_id(tokenizer.unk_token_id)
        writer.add_add_bos_token(False)

    monkeypatch.setattr(vocabulary, "_add_special", nothing)
    return "answers are unfinished"


def truncated_merges(monkeypatch):
    real = vocabulary.gguf.GGUFWriter.add_token_merges
    monkeypatch.setattr(
        vocabulary.gguf.GGUFWriter,
        "add_token_merges",
        lambda self, merges: real(self, merges[: len(merges) // 2]),
    )
    return "different tokens"


def wrong_rope_scaling(monkeypatch):
    real = gguf_room._add_hyperparameters

    def scaled(writer, config):
        config = copy.deepcopy(config)
        config.rope_parameters |= {"rope_type": "linear", "factor": 4.0}
        real(writer, config)

    monkeypatch.setattr(gguf_room, "_add_hyperparameters", scaled)
    return "points lost"


def swapped_halves(monkeypatch):
    monkeypatch.setattr(gguf_room, "_interleave_rotary", lambda weight, heads: weight)
    return "points lost"


def _with_tokenizer(monkeypatch, change, says):
    from burnish.export.formats import registry as formats

    def merged(artifact):
        model, tokenizer = load_merged_model(artifact)
        change(tokenizer)
        return model, tokenizer

    monkeypatch.setattr(formats, "load_merged_model", merged)
    return says


FAULTS = (
    merged_into_four_bits,
    wrong_template,
    doubled_bos,
    missing_end_of_turn,
    truncated_merges,
    wrong_rope_scaling,
    swapped_halves,
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_caught(fault, first, asked, trained, settings, tmp_path, monkeypatch):
    says = fault(monkeypatch)

    parity = judged(write_export(tmp_path / "x", first, "gguf", "f16"), asked, trained, settings)

    assert not parity.shippable
    assert any(says in reason for reason in parity.against), parity.against


def test_a_swapped_adapter_is_caught(second, asked, trained, settings, tmp_path):
    parity = judged(write_export(tmp_path / "x", second, "gguf", "f16"), asked, trained, settings)

    assert any("points lost" in reason for reason in parity.against), parity.against
    assert parity.facts["prompts"]["different"] == 0
