"""OpenVINO: made, asked in its own engine, and judged like any other export."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from burnish.core.errors import PromptTooLong
from burnish.engines.external.base import LaunchOptions
from burnish.engines.local.open import open_local_engine
from burnish.engines.registry import open_engine
from burnish.export.formats import openvino as openvino_room
from burnish.export.formats.gguf_tokenizer import CannotExport
from burnish.export.formats.registry import write_export
from burnish.export.parity.clients import open_served_model
from burnish.export.parity.gate import measure_parity
from burnish.models.artifact import open_artifact


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("openvino")


@pytest.fixture
def built(first, folders):
    """The first run for OpenVINO, made once."""
    folder = folders / "int8"
    return (
        open_artifact(folder)
        if folder.exists()
        else write_export(folder, first, "openvino", "int8")
    )


def judged(artifact, asked, trained, settings):
    door = open_served_model(artifact, LaunchOptions(1, 256))
    try:
        return measure_parity(door, asked, trained, settings)
    finally:
        door.close()


def test_a_faithful_folder_may_ship(built, asked, trained, settings):
    parity = judged(built, asked, trained, settings)

    assert parity.shippable, parity.against
    assert parity.facts["prompts"]["different"] == 0
    assert parity.facts["same_answers"] == 40


def test_the_folder_holds_no_gguf_and_all_that_openvino_reads(built):
    names = {file.name for file in built.path.iterdir()}

    assert {"openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml"} <= names
    assert not [name for name in names if "gguf" in name or name.startswith("tmp")]


def test_the_engine_scores_and_chooses_as_ours_does(first, tmp_path, known, asked):
    built = write_export(tmp_path / "fp16", first, "openvino", "fp16")
    ours = open_local_engine(str(known.runs["20260101-first"].path))
    theirs = open_engine(built.path)
    try:
        rows = asked.rows[:5]
        for one, other in zip(theirs.log_likelihood(rows), ours.log_likelihood(rows), strict=True):
            assert one[0] == pytest.approx(other[0], abs=0.05) and one[1] == other[1]
        labels = ("red green", "red", "one two", "plum parcel")
        prompts = [replace(p, choices=labels) for p in asked.prompts[:8]]
        chosen = zip(theirs.answer(prompts), ours.answer(prompts), strict=True)
        # Of weights so small some labels are as likely as others, to the bits of the products.
        assert sum(one.text == other.text for one, other in chosen) >= 6
        prompt = replace(asked.prompts[0], temperature=2.0, top_p=0.9, seed=4)
        one, same, other = theirs.answer([prompt, prompt, replace(prompt, seed=5)])
        assert one.text == same.text != other.text
        with pytest.raises(PromptTooLong):
            theirs.answer([replace(asked.prompts[0], max_new_tokens=5000)])
    finally:
        theirs.close()


def test_int4_is_smaller_and_is_judged(first, asked, trained, settings, tmp_path, built):
    written = write_export(tmp_path / "int4", first, "openvino", "int4")

    parity = judged(written, asked, trained, settings)

    sizes = [(f.path / "openvino_model.bin").stat().st_size for f in (written, built)]
    assert sizes[0] < 0.8 * sizes[1]
    assert parity.facts["prompts"]["different"] == 0
    assert parity.shippable == (not parity.against)


def test_a_missing_end_of_turn_is_caught(asked, trained, settings, tmp_path, built):
    import shutil

    from tests.fixtures.exports import sign_again

    folder = tmp_path / "x"
    shutil.copytree(built.path, folder)
    facts = json.loads((folder / "generation_config.json").read_text())
    facts["eos_token_id"] = [0]
    (folder / "generation_config.json").write_text(json.dumps(facts))

    parity = judged(sign_again(folder), asked, trained, settings)

    assert any("unfinished" in reason for reason in parity.against)


def test_a_reader_that_leaves_no_files_is_an_error(first, tmp_path, monkeypatch):
    monkeypatch.setattr(openvino_room.sys, "executable", "/bin/true")

    with pytest.raises(CannotExport, match="made no model"):
        write_export(tmp_path / "x", first, "openvino", "int8")
    assert not (tmp_path / "x").exists()


def test_openvino_tells_nobody_that_it_is_used():
    """It would send each conversion to its makers, from a forked process that may never end."""
    program = (
        "import burnish.engines.external.openvino_server\n"
        "import openvino.tools.ovc.telemetry_utils as made\n"
        "print(made.tm.__name__)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub", done.stderr
    assert "sys.modules['openvino_telemetry'] = None" in openvino_room._CONVERT_SCRIPT
