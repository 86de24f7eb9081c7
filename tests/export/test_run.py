"""What an export leaves behind, in each format, and what it refuses."""

import json
import os
import re

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model

from burnish import api
from burnish.core.errors import AlreadyThere, BadRecipe
from burnish.core.recipe.recipe import make_recipe
from burnish.core.records import Message
from burnish.core.runs import find_run
from burnish.engines.local.open import open_local_engine
from burnish.export.formats.gguf_tokenizer import CannotExport
from burnish.export.formats.registry import write_export
from burnish.export.model_card import render_model_card
from burnish.export.packaging.ollama import render_modelfile
from burnish.export.parity.clients import open_served_model
from burnish.export.parity.gate import measure_parity
from burnish.models.artifact import open_artifact, save_artifact
from burnish.models.chat_template import PLAIN_TEMPLATE, render_prompt
from burnish.models.load import load_model, load_tokenizer
from burnish.models.merge import load_merged_model
from tests.fixtures.exports import sign_again
from tests.fixtures.worker_process import run_words

ROWS = [
    {"text": f"{thing} {action} {n}", "label": label}
    for n in range(60)
    for thing, action, label in (
        ("my lamp", "is broken and dark", "repair"),
        ("a parcel", "never came to me", "delivery"),
    )
]
SHORT = ("train.max_steps=4", "data.near_duplicate=1.0", "data.test_share=0.34", "export.threads=1",
         "export.points=0.2", "export.relative=0.5")  # fmt: skip


@pytest.fixture
def run(tiny, write_rows):
    """A classification that was trained for a moment, with forty test rows."""
    file = write_rows("rows.jsonl", ROWS)
    return find_run(api.train(train=[file], model="tiny", changes=SHORT).run)


def test_a_gguf_folder_is_written_asked_and_described(run, tiny_folder, workspace, tmp_path):
    words = ["export", "last", "--to", "gguf", "--quant", "f32", "--out", str(tmp_path / "out")]
    environment = {"BURNISH_MODELS": str(tiny_folder), "BURNISH_HOME": str(workspace)}
    done = run_words(*words, "--json", environment=os.environ | environment)

    assert done.returncode == 0, done.stderr
    printed, out = json.loads(done.stdout), tmp_path / "out"
    kept = json.loads((out / "parity.json").read_text())
    assert printed["shippable"] and kept["shippable"]
    assert kept["changes"]["labels_only"]["n"] >= 30
    assert kept["prompts"]["different"] == kept["prompts"]["answers_different"] == 0
    assert "Apache-2.0" in (out / "README.md").read_text()
    assert (out / "Modelfile").read_text().startswith("FROM ./model-f32.gguf\n")

    trained = api.evaluate(run.path / "recipe.yaml", source=run.id)
    exported = api.evaluate(run.path / "recipe.yaml", source=str(out))
    assert [p.answer for p in exported.scores.predictions] == [
        p.answer for p in trained.scores.predictions
    ]
    assert exported.perplexity == pytest.approx(trained.perplexity, rel=0.01)
    with pytest.raises(BadRecipe, match="GGUF"):
        open_local_engine(str(out))


def test_a_merged_folder_passes_at_burnish_serve(first, asked, trained, settings, tmp_path):
    written = write_export(tmp_path / "merged", first, "merged", "bf16")
    door = open_served_model(written)
    try:
        parity = measure_parity(door, asked, trained, settings)
    finally:
        door.close()

    assert parity.shippable, parity.against
    assert parity.facts["token_agreement"] == 1.0


def test_a_merged_folder_with_another_template_does_not(first, asked, trained, settings, tmp_path):
    written = write_export(tmp_path / "merged", first, "merged", "bf16")
    file = written.path / "chat_template.jinja"
    file.write_text(file.read_text().replace("assistant", "user"))
    door = open_served_model(sign_again(written.path))
    try:
        parity = measure_parity(door, asked, trained, settings)
    finally:
        door.close()

    assert any("different tokens" in reason for reason in parity.against)
    assert any("points lost" in reason for reason in parity.against)


def test_an_adapter_folder_is_the_adapter(first, trained, tmp_path):
    written = write_export(tmp_path / "adapter", first, "adapter", "as trained")

    model = PeftModel.from_pretrained(
        load_model(api.models()[0].local, torch.float32), written.path, autocast_adapter_dtype=False
    )
    assert model.peft_config["default"].r == 16
    assert written.kind == "adapter" and written.lineage["export"]["to"] == "adapter"


METHODS = {
    "dora": LoraConfig(r=4, target_modules="all-linear", use_dora=True, task_type="CAUSAL_LM"),
    "rslora": LoraConfig(r=4, target_modules="all-linear", use_rslora=True, task_type="CAUSAL_LM"),
    "ranks": LoraConfig(
        r=4, target_modules="all-linear", rank_pattern={"q_proj": 2}, task_type="CAUSAL_LM"
    ),
    "ia3": IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        task_type="CAUSAL_LM",
    ),
}


@pytest.mark.parametrize("method", METHODS)
@torch.inference_mode()
def test_every_method_is_merged_as_it_was_trained(method, tiny, tmp_path):
    adapted = get_peft_model(load_model(tiny, torch.float32), METHODS[method])
    for name, part in adapted.named_parameters():
        if "lora_" in name or "ia3_" in name:
            part.normal_(1.0 if "ia3" in name or "magnitude" in name else 0.0, 0.2)
    tokenizer = load_tokenizer(tiny)
    artifact = save_artifact(tmp_path / "a", adapted, tokenizer, tiny, {"system": None})
    ids = torch.arange(5, 45)[None]
    before = adapted(input_ids=ids).logits
    without = load_model(tiny, torch.float32)(input_ids=ids).logits

    after = load_merged_model(artifact)[0](input_ids=ids).logits

    assert (before - without).abs().max() > 0.5
    assert torch.allclose(after, before, atol=1e-3)


def test_a_qlora_adapter_is_merged_into_weights_of_16_bits_and_the_card_says_so(tiny, tmp_path):
    adapted = get_peft_model(
        load_model(tiny, torch.float32), LoraConfig(r=4, target_modules=["q_proj"])
    )
    lineage = {"system": None, "quantized": {"double_quant": True}}
    artifact = save_artifact(tmp_path / "a", adapted, load_tokenizer(tiny), tiny, lineage)

    merged, _ = load_merged_model(artifact)
    written = write_export(tmp_path / "b", artifact, "merged", "bf16")

    base = load_model(tiny, torch.float32).state_dict()
    for name, weight in merged.state_dict().items():
        assert torch.equal(weight, base[name]), name
    facts = {
        "shippable": True, "against": [], "rows": 1, "changes": {}, "same_answers": 1,
        "token_agreement": 1.0,
        "speed": {"p50_s": 1.0, "p95_s": 1.0, "tokens_per_s": 1.0, "memory_bytes": 1},
    }  # fmt: skip
    assert "never saw" in render_model_card(written, "MIT", facts, 1)


def test_ollama_s_template_renders_what_ours_does(tiny_tokenizer):
    text = render_modelfile(["x.gguf"], tiny_tokenizer, "Be brief.")

    template = re.search('TEMPLATE """(.*?)"""', text, re.DOTALL)[1]
    body, end = re.fullmatch(
        r"{{ range \.Messages }}(.*){{ end }}{{ end }}(.*)", template, re.DOTALL
    ).groups()
    branches = dict(
        re.findall(r'{{ (?:else )?if eq \.Role "(\w+)" }}(.*?)(?={{ else|\Z)', body, re.DOTALL)
    )
    talk = [
        Message("system", "Be brief."),
        Message("user", "red"),
        Message("assistant", "blue"),
        Message("user", "one"),
    ]
    rendered = "".join(branches[m.role].replace("{{ .Content }}", m.content) for m in talk) + end
    assert rendered == render_prompt(tiny_tokenizer, talk)
    assert 'SYSTEM """Be brief."""' in text and 'PARAMETER stop "<|im_end|>"' in text


def test_a_template_that_ollama_could_not_say_gets_no_modelfile(tiny_tokenizer):
    import copy

    odd = copy.copy(tiny_tokenizer)
    odd.chat_template = "{{ messages | length }}" + PLAIN_TEMPLATE

    assert render_modelfile(["x.gguf"], odd, None) is None


def test_what_cannot_be_written_leaves_nothing(tiny, first, tmp_path, known):
    full = save_artifact(
        tmp_path / "full", load_model(tiny, torch.float32), load_tokenizer(tiny), tiny, {}
    )
    with pytest.raises(CannotExport, match="no adapter"):
        write_export(tmp_path / "out", full, "adapter", "as trained")
    with pytest.raises(CannotExport, match="q8_0"):
        api.export("20260101-first", to="merged", quant="q8_0", out=tmp_path / "out")
    with pytest.raises(BadRecipe, match="no data"):
        api.export("20260101-first", to="merged", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write_export(tmp_path / "out", first, "adapter", "as trained")
    with pytest.raises(AlreadyThere):
        write_export(tmp_path / "out", first, "adapter", "as trained")
    assert open_artifact(tmp_path / "out")
    assert make_recipe({"export": {"to": "gguf"}}).export.quant == "auto"
