"""Several adapters in one ONNX folder: each answers as it does alone, in every order."""

import json
import shutil
from dataclasses import replace
from itertools import permutations

import onnx
import pytest

from burnish.core.errors import AlreadyThere, BadData, BadRecipe
from burnish.core.records import Prompt
from burnish.engines.external.base import LaunchOptions
from burnish.engines.external.onnx import list_adapters, open_onnx
from burnish.engines.scheduling.isolation_check import AdapterLeak, check_export_isolation
from burnish.engines.scheduling.model_pool import open_model_pool
from burnish.export.formats.gguf_tokenizer import CannotExport
from burnish.export.formats.onnx_multi_lora import (
    extract_lora_weights,
    open_branches,
    write_multi_adapter,
)
from burnish.export.formats.registry import write_lineage
from burnish.models.artifact import open_artifact
from tests.fixtures.exports import ROOM, sign_again

FIRST, SECOND = "20260101-first", "20260102-second"
PROMPTS = 6


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("switching")


@pytest.fixture
def built(first, second, folders):
    """Both runs in one folder of 4 bits, made once."""
    folder = folders / "both"
    if not folder.exists():
        folder.mkdir()
        adapters = write_multi_adapter(folder, {FIRST: first, SECOND: second}, "int4")
        write_lineage(folder, first, "onnx", {"to": "onnx", "quant": "int4", "adapters": adapters})
    return open_artifact(folder)


def asks(row):
    return Prompt(row.prompt, max_new_tokens=12)


def test_each_adapter_says_in_every_order_what_it_says_alone(built, known):
    prompts = [asks(row) for row in known.rows[FIRST][:PROMPTS]]
    alone = {}
    for one in list_adapters(built):
        engine = open_onnx(one, LaunchOptions(1, 256))
        alone[engine.name] = [answer.text for answer in engine.answer(prompts)]
        engine.close()
    assert all(one != other for one, other in zip(*alone.values(), strict=True))

    fleet = open_model_pool([str(built.path)], running=LaunchOptions(1, 256))
    try:
        for order in permutations(alone):
            for place, prompt in enumerate(prompts):
                for name in order:
                    engine = fleet.find(f"{name}-onnx-int4")
                    assert engine.answer([prompt])[0].text == alone[name][place], (order, name)
        one, other = (fleet.find(f"{name}-onnx-int4") for name in alone)
        assert one.child is other.child
        assert fleet.find(str(built.path)) is one
    finally:
        fleet.close()


def test_answers_that_grow_at_the_same_time_do_not_mix(built):
    proof = check_export_isolation(built)

    assert not proof.leak and proof.compared == 40


def test_one_process_that_died_is_started_again_for_all(built, known):
    fleet = open_model_pool([str(built.path)], running=LaunchOptions(1, 256))
    prompt = asks(known.rows[FIRST][0])
    engines = [fleet.find(f"{name}-onnx-int4") for name in (FIRST, SECOND)]
    try:
        before = [engine.answer([prompt])[0].text for engine in engines]
        engines[0].child._process.kill()
        engines[0].child._process.wait()
        for engine in engines:
            engine.ensure_alive()
        assert [engine.answer([prompt])[0].text for engine in engines] == before
        assert engines[0].child is engines[1].child
    finally:
        fleet.close()


def test_a_runner_that_keeps_another_ones_tokens_is_found_out(built, monkeypatch):
    """The proof can fail: here the child forgets to turn."""
    from burnish.engines.scheduling import isolation_check as canary

    def unturned(artifact, running):
        several = real(artifact, running)
        for engine in several:
            engine.extra_fields = several[0].extra_fields
        return several

    from burnish.engines.scheduling import model_pool as fleet

    real = fleet.open_onnx_adapters
    monkeypatch.setattr(fleet, "open_onnx_adapters", unturned)

    assert "said" in canary.check_export_isolation(built).leak


def test_runs_go_through_their_own_gates_and_what_is_refused_leaves_nothing(
    known, first, second, tmp_path, monkeypatch
):
    from typer.testing import CliRunner

    from burnish.cli.main import app

    rows = [
        json.dumps({"prompt": row.messages[0].content, "completion": row.answer})
        for row in known.rows[FIRST]
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(rows) + "\n")
    out = tmp_path / "both"
    words = ["-q", "export", FIRST, "--to", "onnx", "--quant", "fp32", "--with", SECOND]
    words += ["--out", str(out), "--set", f"data.test={tmp_path / 'test.jsonl'}"]
    words += ["--set", "task.kind=generation", "--set", "export.rows=30", "--json"]
    for name, points in ROOM.items():
        words += ["--set", f"export.{name}={points}"]

    done = CliRunner().invoke(app, words)

    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert list(found["adapters"]) == [FIRST, SECOND] and found["compared"] == 40
    assert all(one["shippable"] for one in found["adapters"].values())
    assert [one["same_answers"] for one in found["adapters"].values()] == [30, 30]
    assert json.loads((out / "parity.json").read_text()) == found["adapters"]
    with pytest.raises(AlreadyThere):
        CliRunner().invoke(app, words, catch_exceptions=False)
    from burnish.export import multi_adapter as switching

    wrong = replace(check_export_isolation(open_artifact(out)), leak="A said B's answer.")
    monkeypatch.setattr(switching, "check_export_isolation", lambda artifact: wrong)
    words[words.index("--out") + 1] = str(tmp_path / "leaky")
    with pytest.raises(AdapterLeak, match="A said B's answer"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    assert not (tmp_path / "leaky").exists()


def test_adapters_of_other_templates_and_other_formats_are_refused(known, first, second, tmp_path):
    from typer.testing import CliRunner

    from burnish.cli.main import app

    other = replace(second, lineage={**second.lineage, "template_sha256": "0"})
    with pytest.raises(BadData, match="same template"):
        write_multi_adapter(tmp_path, {FIRST: first, SECOND: other}, "fp32")
    for more in (["--to", "gguf"], ["--to", "onnx", "--drop-layers", "1"], []):
        with pytest.raises(BadRecipe, match="--with goes with"):
            words = ["export", FIRST, "--with", SECOND, *more]
            CliRunner().invoke(app, words, catch_exceptions=False)


def test_what_isnt_plain_lora_is_refused(first, tmp_path):
    folder = tmp_path / "dora"
    shutil.copytree(first.path, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))

    with pytest.raises(CannotExport, match="plain LoRA"):
        extract_lora_weights(sign_again(folder))
    with pytest.raises(CannotExport, match="is not an adapter"):
        extract_lora_weights(replace(first, kind="full"))


@pytest.mark.parametrize(("layer", "said"), [("q", "is missing in"), (None, "to no adapter")])
def test_a_graph_and_adapters_that_dont_fit_are_refused(built, layer, said, tmp_path):
    graph = onnx.load(built.path / "model.onnx", load_external_data=False)
    widths = {place.name: 4 for place in graph.graph.input if "lora_" in place.name}
    assert len(widths) == 2 * 2 * 7
    if layer:
        widths["model.layers.9.attn.q_proj.lora_A.MatMul.weight"] = 4
    else:
        widths.popitem()
    shutil.copy2(built.path / "model.onnx", tmp_path / "model.onnx")

    with pytest.raises(CannotExport, match=said):
        open_branches(tmp_path / "model.onnx", widths)
