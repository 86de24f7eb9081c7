"""Layers that are left out: the ones that change least, and the gate still has the last word."""

import json

import pytest
import torch

from burnish import api
from burnish.core.errors import BadRecipe
from burnish.core.recipe.recipe import make_recipe
from burnish.export.formats.gguf_tokenizer import CannotExport
from burnish.export.formats.registry import write_export
from burnish.export.layer_pruning import block_influence
from burnish.models.local_models import ARTIFACT_FILE
from burnish.models.merge import load_merged_model
from burnish.models.pruning.depth import keep_layers, layers_of

RUN = "20260103-deep"


@pytest.fixture
def files(known, write_rows):
    """Rows to measure the layers by, and the questions of the gate."""
    rows = [(row.messages[0].content, row.answer) for row in known.rows["20260101-first"]]
    said = [[{"prompt": f"{before}{q}", "completion": a} for q, a in rows]
            for before in ("again: ", "")]  # fmt: skip
    return write_rows("train.jsonl", said[0]), write_rows("test.jsonl", said[1])


@pytest.fixture
def deep(known, first, files):
    """The first run with a third layer between its two, which changes next to nothing."""
    model, tokenizer = load_merged_model(first)
    layers = layers_of(model)
    idle = type(layers[0])(model.config, layer_idx=1)
    for part in (idle.self_attn.o_proj, idle.mlp.down_proj):
        torch.nn.init.normal_(part.weight, std=1e-5)
    layers.insert(1, idle)
    model.config.num_hidden_layers = 3
    run = known.home / "runs" / RUN
    changes = [f"data.train={files[0]}", f"data.test={files[1]}", "task.kind=generation"]
    run.mkdir(exist_ok=True)
    make_recipe({"model": {"name": "tiny"}}, changes).save(run / "recipe.yaml")
    if not (run / "artifact").exists():
        (run / "events.jsonl").write_text("")
        model.save_pretrained(run / "artifact")
        tokenizer.save_pretrained(run / "artifact")
        facts = {**first.lineage, "kind": "full", "run": RUN, "files": {}}
        (run / "artifact" / ARTIFACT_FILE).write_text(json.dumps(facts))
    return run


@torch.no_grad()
def test_influence_is_one_minus_the_cosine_of_in_and_out(tiny_model):
    texts = [[5, 6, 7, 8], [9, 10]]

    found = block_influence(tiny_model, texts)

    sums = torch.zeros(2)
    for ids in texts:
        states = tiny_model.model(
            input_ids=torch.tensor([ids]), output_hidden_states=True
        ).hidden_states
        # The last one of these is behind the model's own norm: only the first layer is seen whole.
        sums[0] += (1 - torch.cosine_similarity(states[0], states[1], dim=-1)).sum()
    assert found[0] == pytest.approx(float(sums[0]) / 6, abs=1e-5)
    assert len(found) == 2 and 0 < found[1] < 2


def test_the_idle_layer_goes_and_the_answers_stay(deep, tmp_path):
    done = api.export(RUN, to="gguf", quant="f16", out=tmp_path / "out",
                      changes=["export.drop_layers=1", "export.points_if_equal=0.12"])  # fmt: skip

    assert done.exit_code == 0, done.parity.against
    assert done.parity.facts["same_answers"] == 40
    assert done.artifact.lineage["dropped_layers"] == [2]
    assert sum(done.as_dict()["export"]["matrices"].values()) == 1 + 2 * 7
    assert "Dropped layers: 2." in (tmp_path / "out" / "README.md").read_text()


def test_a_layer_that_is_needed_fails_at_the_gate(deep, tmp_path):
    done = api.export(RUN, to="merged", quant="f32", out=tmp_path / "out",
                      changes=["export.drop_layers=2"])  # fmt: skip

    assert done.exit_code == 1 and len(done.artifact.lineage["dropped_layers"]) == 2


def test_an_adapter_and_too_many_layers_are_refused_and_leave_nothing(deep, tmp_path):
    for to, count, error, match in (
        ("adapter", 1, CannotExport, "ships an adapter"),
        ("merged", 3, BadRecipe, "has 3 layers; 3 can't be dropped"),
    ):
        with pytest.raises(error, match=match):
            api.export(RUN, to=to, out=tmp_path / to, changes=[f"export.drop_layers={count}"])
        assert not (tmp_path / to).exists()


def test_what_is_kept_is_whole_once_it_is_loaded_again(first, tmp_path):
    from transformers import AutoModelForCausalLM

    model, _ = load_merged_model(first)
    keep_layers(model, [1])
    model.save_pretrained(tmp_path / "cut")

    text = torch.tensor([[5, 6, 7]])
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "cut", local_files_only=True)
    assert loaded.config.num_hidden_layers == 1
    alone = model(text, use_cache=False).logits
    assert torch.allclose(loaded(text).logits, alone, atol=1e-5)
    assert write_export(tmp_path / "whole", first, "merged", "f32").kind == "full"
