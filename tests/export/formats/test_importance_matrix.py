"""Rounding that errs where the training rows need the weights least."""

import json

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from burnish import api
from burnish.core.recipe.recipe import make_recipe
from burnish.export.formats.gguf_quants import quantize_matrix
from burnish.export.formats.gguf_tokenizer import CannotExport
from burnish.export.formats.importance_matrix import compute_importance, measure_importance
from burnish.export.formats.registry import write_export
from burnish.models.merge import load_merged_model


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q4_K, Kind.Q6_K])
def test_columns_that_matter_are_rounded_better(kind):
    draw = np.random.default_rng(0)
    weights = draw.normal(size=(64, 512)).astype(np.float32)
    matters = np.full(512, 1e-3, dtype=np.float32)
    matters[::8] = 1.0

    def error(importance):
        back = gguf.quants.dequantize(quantize_matrix(weights, kind, importance), kind)
        return float(((back - weights)[:, ::8] ** 2).sum())

    assert error(matters) < 0.8 * error(None)


def test_importance_is_the_mean_square_of_what_comes_in(tiny_model):
    ids = [[5, 6, 7], [8, 9]]
    seen = []
    place = tiny_model.model.layers[1].mlp.down_proj
    hook = place.register_forward_pre_hook(lambda module, given: seen.append(given[0][0]))

    found = measure_importance(tiny_model, ids)

    hook.remove()
    expected = torch.cat(seen).square().mean(0).numpy()
    assert found["blk.1.ffn_down"] == pytest.approx(
        np.maximum(expected, 1e-3 * expected.mean()), rel=1e-5
    )
    assert len(found) == 2 * 7 and found["blk.0.attn_q"].shape == (64,)


def test_a_run_is_rounded_by_its_own_training_rows(first, known, tmp_path):
    rows = known.rows["20260101-first"]
    lines = [
        json.dumps({"prompt": row.messages[0].content, "completion": row.answer}) for row in rows
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    recipe = make_recipe({
        "data": {"train": [str(tmp_path / "rows.jsonl")], "near_duplicate": 1.0},
        "export": {"to": "gguf", "importance": True}, "task": {"kind": "generation"},
    })  # fmt: skip
    importance = compute_importance(recipe, first)
    model, _ = load_merged_model(first)
    weights = model.model.layers[0].mlp.down_proj.weight.detach().numpy()
    by = importance["blk.0.ffn_down"]

    def loss(given):
        back = gguf.quants.dequantize(quantize_matrix(weights, Kind.Q4_0, given), Kind.Q4_0)
        return float((((back - weights) ** 2) * by).sum())

    assert loss(by) < loss(None)
    plain = write_export(tmp_path / "plain", first, "gguf", "q4_0")
    weighed = write_export(tmp_path / "weighed", first, "gguf", "q4_0", importance)
    assert weighed.lineage["export"]["importance"] and "importance" not in plain.lineage["export"]
    assert (plain.path / "model-q4_0.gguf").read_bytes() != (
        weighed.path / "model-q4_0.gguf"
    ).read_bytes()


def test_a_format_that_isnt_rounded_so_is_refused(known, write_rows):
    file = write_rows("t.jsonl", [{"prompt": f"a {n}", "completion": "b"} for n in range(40)])
    with pytest.raises(CannotExport, match="importance"):
        api.export(
            "20260101-first", to="merged",
            changes=["export.importance=true", f"data.test={file}"],
        )  # fmt: skip
