"""ONNX for ORT-GenAI: made, asked in its own engine, and judged like any other export."""

import json
from dataclasses import replace

import pytest

from burnish.core.errors import PromptTooLong
from burnish.engines.external.base import LaunchOptions
from burnish.engines.external.onnx import OnnxEngine
from burnish.engines.local.open import open_local_engine
from burnish.engines.registry import open_engine
from burnish.export.formats import onnx as onnx_room
from burnish.export.formats.gguf_tokenizer import CannotExport
from burnish.export.formats.registry import write_export
from burnish.export.parity.clients import open_served_model
from burnish.export.parity.gate import measure_parity


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture
def built(first, folders):
    """The first run as ONNX, made once."""
    from burnish.models.artifact import open_artifact

    folder = folders / "fp32"
    return open_artifact(folder) if folder.exists() else write_export(folder, first, "onnx", "fp32")


def test_a_faithful_onnx_folder_may_ship(built, asked, trained, settings):
    door = open_served_model(built, LaunchOptions(1, 256))
    try:
        parity = measure_parity(door, asked, trained, settings)
    finally:
        door.close()

    assert parity.shippable, parity.against
    assert parity.facts["same_answers"] == 40
    assert parity.facts["broken"]["unfinished"] == {"trained": 0, "exported": 0}


def test_the_engine_scores_and_chooses_as_ours_does(built, known, asked):
    ours = open_local_engine(str(known.runs["20260101-first"].path))
    theirs = open_engine(built.path)
    try:
        rows = asked.rows[:5]
        for one, other in zip(theirs.log_likelihood(rows), ours.log_likelihood(rows), strict=True):
            assert one[0] == pytest.approx(other[0], abs=2e-3) and one[1] == other[1]
        labels = ("red green", "red", "one two", "plum parcel")
        prompts = [replace(p, choices=labels) for p in asked.prompts[:8]]
        assert [a.text for a in theirs.answer(prompts)] == [a.text for a in ours.answer(prompts)]
        told = [replace(asked.prompts[0], top_logprobs=3)]
        one, other = theirs.answer(told)[0], ours.answer(told)[0]
        assert one.text == other.text and one.finish_reason == "stop"
        assert [t.logprob for t in one.logprobs] == pytest.approx(
            [t.logprob for t in other.logprobs], abs=2e-3
        )
        with pytest.raises(PromptTooLong):
            theirs.answer([replace(asked.prompts[0], max_new_tokens=5000)])
    finally:
        theirs.close()


def test_sampling_follows_the_seed(built, asked):
    engine = OnnxEngine(built, LaunchOptions(1, 256))
    try:
        prompt = replace(asked.prompts[0], temperature=2.0, top_p=0.9, seed=4)
        one, same, other = engine.answer([prompt, prompt, replace(prompt, seed=5)])
    finally:
        engine.close()

    assert one.text == same.text != other.text


@pytest.mark.parametrize(("quant", "bits"), [("int8", 8), ("uint4_16", 4)])
def test_a_number_format_is_written_as_it_says_and_opens(first, asked, tmp_path, quant, bits):
    import onnx

    written = write_export(tmp_path / quant, first, "onnx", quant)

    graph = onnx.load(str(written.path / "model.onnx"), load_external_data=False).graph
    products = [node for node in graph.node if node.op_type == "MatMulNBits"]
    made = {(own["bits"], own["block_size"]) for own in map(_attributes, products)}
    assert made == {(bits, 16 if "_16" in quant else 32)}
    # With a zero point, a product has an input more.
    assert all(bool(node.input[3:] and node.input[3]) == ("u" in quant) for node in products)
    engine = OnnxEngine(written, LaunchOptions(1, 256))
    try:
        assert engine.answer(asked.prompts[:1])[0].tokens_out
    finally:
        engine.close()


def _attributes(node):
    return {one.name: one.i for one in node.attribute}


def test_int4_is_smaller_and_is_judged(first, asked, trained, settings, tmp_path, built):
    written = write_export(tmp_path / "int4", first, "onnx", "int4")
    door = open_served_model(written, LaunchOptions(1, 256))
    try:
        parity = measure_parity(door, asked, trained, settings)
    finally:
        door.close()

    sizes = [(f.path / "model.onnx.data").stat().st_size for f in (written, built)]
    assert sizes[0] < 0.5 * sizes[1]
    assert parity.facts["prompts"]["different"] == 0
    assert parity.shippable == (not parity.against)


def test_a_builder_that_leaves_no_files_is_an_error(first, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_room.sys, "executable", "/bin/true")

    with pytest.raises(CannotExport, match="made no model"):
        write_export(tmp_path / "x", first, "onnx", "int4")
    assert not (tmp_path / "x").exists()


def test_a_missing_end_of_turn_is_caught(first, asked, trained, settings, tmp_path, built):
    import shutil

    from tests.fixtures.exports import sign_again

    folder = tmp_path / "x"
    shutil.copytree(built.path, folder)
    facts = json.loads((folder / "genai_config.json").read_text())
    facts["model"]["eos_token_id"] = 0
    (folder / "genai_config.json").write_text(json.dumps(facts))
    door = open_served_model(sign_again(folder), LaunchOptions(1, 256))
    try:
        parity = measure_parity(door, asked, trained, settings)
    finally:
        door.close()

    assert any("unfinished" in reason for reason in parity.against)
