"""What other programs want to see: Foundry Local, LM Studio and vLLM."""

import json
import os
import subprocess
from dataclasses import replace

import pytest

from burnish.core.records import Message
from burnish.export.formats.gguf_tokenizer import CannotExport
from burnish.export.formats.registry import write_export
from burnish.export.packaging.registry import check_targets, write_targets
from burnish.export.packaging.turn_template import extract_turn_template
from burnish.models.chat_template import render_prompt


def filled(template, text):
    return template.replace("{Content}", text)


def test_foundrys_template_renders_what_ours_does(first, tmp_path, tiny_tokenizer):
    written = replace(first, path=tmp_path)

    write_targets(["foundry"], written, tiny_tokenizer)

    told = json.loads((tmp_path / "inference_model.json").read_text())
    assert told["Name"] == "20260101-first"
    template = told["PromptTemplate"]
    asked = (Message("user", "where is my lamp"),)
    assert filled(template["prompt"], "where is my lamp") == render_prompt(tiny_tokenizer, asked)
    talk = (Message("system", "Be brief."), Message("user", "a"), Message("assistant", "b"), *asked)
    ours = "".join(filled(template[turn.role], turn.content) for turn in talk[:-1])
    assert ours + filled(template["prompt"], "where is my lamp") == render_prompt(
        tiny_tokenizer, talk
    )


def test_the_prompt_of_the_training_is_in_foundrys(first, tmp_path, tiny_tokenizer):
    written = replace(first, path=tmp_path, system="Be brief.")

    write_targets(["foundry"], written, tiny_tokenizer)

    told = json.loads((tmp_path / "inference_model.json").read_text())["PromptTemplate"]["prompt"]
    asked = (Message("system", "Be brief."), Message("user", "a"))
    assert filled(told, "a") == render_prompt(tiny_tokenizer, asked)


def test_a_template_that_does_more_has_no_turns_and_is_refused(first, tiny_tokenizer, monkeypatch):
    odd = "{% for m in messages %}{{ loop.index ~ m['role'] ~ m['content'] }}{% endfor %}"
    monkeypatch.setattr(tiny_tokenizer, "chat_template", odd)

    assert extract_turn_template(tiny_tokenizer) is None
    with pytest.raises(CannotExport, match="foundry"):
        check_targets(["foundry"], "onnx", first, tiny_tokenizer)


@pytest.mark.parametrize(
    ("program", "to"), [("foundry", "gguf"), ("lmstudio", "merged"), ("vllm", "gguf")]
)
def test_a_format_that_a_program_cant_take_is_refused(first, tiny_tokenizer, program, to):
    with pytest.raises(CannotExport, match=f"{program} doesn't take --to {to}"):
        check_targets([program], to, first, tiny_tokenizer)


def test_lm_studio_finds_publisher_model_and_file(first, tmp_path, tiny_tokenizer):
    written = write_export(tmp_path / "out", first, "gguf", "q8_0")

    write_targets(["lmstudio"], written, tiny_tokenizer)

    file = written.path / "lmstudio/burnish/20260101-first/20260101-first-q8_0.gguf"
    assert file.read_bytes() == (written.path / "model-q8_0.gguf").read_bytes()


@pytest.mark.parametrize("to", ["merged", "adapter"])
def test_the_vllm_script_names_this_folder_wherever_it_lies(first, tmp_path, tiny_tokenizer, to):
    quant = "bf16" if to == "merged" else "as trained"
    written = write_export(tmp_path / "out", first, to, quant)
    write_targets(["vllm"], written, tiny_tokenizer)
    moved = written.path.rename(tmp_path / "moved there")
    stand_in = tmp_path / "bin" / "vllm"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    stand_in.chmod(0o755)

    said = subprocess.run(
        [moved / "vllm.sh", *(["BASE"] if to == "adapter" else [])],
        env=os.environ | {"PATH": f"{stand_in.parent}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip

    if to == "merged":
        assert said == ["serve", str(moved), "--served-model-name", "20260101-first"]
    else:
        assert said[:2] == ["serve", "BASE"] and f"20260101-first={moved}" in said
        assert said[said.index("--max-lora-rank") + 1] == "16"


def test_an_adapter_that_isnt_plain_lora_is_not_for_vllm(first, tmp_path, tiny_tokenizer):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "use_dora": true}')

    with pytest.raises(CannotExport, match="plain LoRA"):
        check_targets(["vllm"], "adapter", replace(first, path=tmp_path), tiny_tokenizer)


def test_an_export_is_made_ready_before_it_is_asked(known, write_rows, tmp_path):
    from burnish import api

    rows = known.rows["20260101-first"]
    file = write_rows(
        "t.jsonl", [{"prompt": r.messages[0].content, "completion": r.answer} for r in rows]
    )
    changes = ["export.ready_for=[lmstudio]", f"data.test={file}", "task.kind=generation"]
    changes += ["export.points_if_equal=0.12"]

    done = api.export("20260101-first", to="gguf", out=tmp_path / "out", changes=changes)

    assert done.exit_code == 0, done.parity.against
    assert list((tmp_path / "out/lmstudio").rglob("*.gguf"))
    with pytest.raises(CannotExport):
        api.export("20260101-first", to="merged", out=tmp_path / "no", changes=changes)
    assert not (tmp_path / "no").exists()


@pytest.fixture
def served_by_mlflow(first, tmp_path, tiny_tokenizer):
    """The first run as MLflow loads it, from where the folder was moved to."""
    import mlflow

    written = write_export(tmp_path / "out", first, "merged", "f32")
    write_targets(["mlflow"], written, tiny_tokenizer)
    return mlflow.pyfunc.load_model(str(written.path.rename(tmp_path / "moved")))


def test_mlflow_answers_as_the_trained_run_does(served_by_mlflow, asked, trained):
    assert served_by_mlflow.metadata.metadata["task"] == "llm/v1/chat"
    for row, reply in zip(asked.rows[:6], trained.free, strict=False):
        said = [{"role": m.role, "content": m.content} for m in row.prompt]

        answer = served_by_mlflow.predict({"messages": said, "max_tokens": 12})

        assert answer["choices"][0]["message"]["content"] == reply.text
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["prompt_tokens"] == reply.tokens_in


def test_mlflow_stops_at_a_word_and_refuses_what_it_cant_answer(served_by_mlflow, asked, trained):
    said = [{"role": m.role, "content": m.content} for m in asked.rows[0].prompt]
    first_word, _, second_word = trained.free[0].text.partition(" ")

    answer = served_by_mlflow.predict({"messages": said, "stop": [f" {second_word}"]})

    assert answer["choices"][0]["message"]["content"] == first_word
    with pytest.raises(ValueError, match="n"):
        served_by_mlflow.predict({"messages": said, "n": 2})


def test_the_prompt_of_the_training_is_said_to_mlflows_model(first, tmp_path, tiny_tokenizer):
    import mlflow

    written = write_export(tmp_path / "out", first, "merged", "f32")
    facts = json.loads((written.path / "artifact.json").read_text())
    (written.path / "artifact.json").write_text(json.dumps({**facts, "system": "Be brief."}))
    write_targets(["mlflow"], written, tiny_tokenizer)
    model = mlflow.pyfunc.load_model(str(written.path))
    said = {"role": "user", "content": "red lamp"}
    system = {"role": "system", "content": "Be brief."}

    bare, told = (model.predict({"messages": x, "max_tokens": 3}) for x in ([said], [system, said]))

    assert bare["usage"] == told["usage"]
