"""Adapters merged into one, and one trained on top of another."""

import json

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from burnish.cli.main import app
from burnish.core.errors import BadRecipe, NotFound
from burnish.core.runs import Run, find_run
from burnish.engines.registry import open_engine
from burnish.models.artifact import load_artifact_model, open_artifact
from burnish.train.adapters.merge import MergeOptions, merge
from burnish.train.run import train
from tests.fixtures.training import die_at_sync, weights
from tests.fixtures.worker_process import in_child


def updates(run):
    """Module → its whole update, scaling B A."""
    folder = run / "artifact"
    facts = json.loads((folder / "adapter_config.json").read_text())
    kept = load_file(folder / "adapter_model.safetensors")
    scaling = facts["lora_alpha"] / (facts["r"] ** (0.5 if facts["use_rslora"] else 1))
    names = [key.removesuffix(".lora_A.weight") for key in kept if ".lora_A." in key]
    return {
        name: scaling * kept[f"{name}.lora_B.weight"] @ kept[f"{name}.lora_A.weight"]
        for name in names
    }


@pytest.fixture
def pair(recipe_of, dataset, tmp_path):
    """Two runs: other seeds and ranks, one of them with rsLoRA."""
    short = ("train.max_steps=4", "model.dtype=float32")
    train(recipe_of(*short, "train.method.rank=4"), dataset, out=tmp_path / "a")
    other = recipe_of(*short, "train.method.rank=6", "train.method.rslora=true", "train.seed=5")
    train(other, dataset, out=tmp_path / "b")
    return tmp_path / "a", tmp_path / "b"


def merged_by(pair, out, **settings):
    merge([str(run) for run in pair], [0.7, 0.5], MergeOptions(**settings), out)
    return updates(out)


@pytest.mark.parametrize("order", [1, -1])
def test_linear_is_the_weighted_sum_exactly_and_svd_its_best_of_that_rank(pair, tmp_path, order):
    pair = pair[::order]
    one, other = map(updates, pair)
    exact = merged_by(pair, tmp_path / "linear", how="linear")
    full = merged_by(pair, tmp_path / "svd", how="svd", rank=10)
    small = merged_by(pair, tmp_path / "small", how="svd", rank=3)

    for name, update in exact.items():
        wanted = 0.7 * one[name] + 0.5 * other[name]
        torch.testing.assert_close(update, wanted, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(full[name], wanted, rtol=1e-3, atol=1e-5)
        u, s, v = torch.linalg.svd(wanted)
        best = u[:, :3] @ torch.diag(s[:3]) @ v[:3]
        torch.testing.assert_close(small[name], best, rtol=1e-3, atol=1e-5)


def test_ties_is_that_of_the_paper_on_whole_updates(pair, tmp_path):
    one, other = map(updates, pair)
    found = merged_by(pair, tmp_path / "ties", how="ties", density=0.4, rank=12)

    for name, update in list(found.items())[:3]:
        parts = []
        for own in (one[name], other[name]):
            least = own.abs().flatten().topk(int(0.4 * own.numel())).values[-1]
            parts.append(torch.where(own.abs() >= least, own, 0.0))
        kept = torch.stack(parts)
        agrees = kept.sign() == torch.where(kept.sum(0) >= 0, 1.0, -1.0)
        weighted = kept * torch.tensor([0.7, 0.5])[:, None, None]
        # The mean of those that agree: the paper's disjoint merge.
        wanted = (weighted * agrees).sum(0) / agrees.sum(0).clamp(min=1)
        u, s, v = torch.linalg.svd(wanted, full_matrices=False)
        best = u[:, :12] @ torch.diag(s[:12]) @ v[:12]
        torch.testing.assert_close(update, best, rtol=1e-3, atol=1e-4)
        assert wanted.abs().max() > 1e-3


def test_dare_draws_by_its_seed(pair, tmp_path):
    again = [
        merged_by(pair, tmp_path / name, how="dare_ties", seed=seed)
        for name, seed in (("x", 1), ("y", 1), ("z", 2))
    ]
    name = next(iter(again[0]))
    assert torch.equal(again[0][name], again[1][name])
    assert not torch.equal(again[0][name], again[2][name])


def test_what_is_merged_is_a_run_that_answers_and_says_where_it_comes_from(pair, tmp_path):
    said = ["merge", *map(str, pair), "--out", str(tmp_path / "both"), "--json"]
    done = CliRunner().invoke(app, said, catch_exceptions=False)

    told = json.loads(done.stdout)
    assert [part["weight"] for part in told["merged"]] == [0.5, 0.5]
    artifact = open_artifact(tmp_path / "both" / "artifact")
    assert artifact.lineage["how"] == "linear" and artifact.lineage["merged"] == told["merged"]
    assert open_engine(str(tmp_path / "both")).context_length
    assert find_run(str(tmp_path / "both")).artifact.exists()


def test_what_cannot_be_merged_is_refused_and_nothing_is_left(pair, recipe_of, dataset, tmp_path):
    a, b = map(str, pair)
    full = recipe_of("train.max_steps=1", "train.method=full")
    train(full, dataset, out=tmp_path / "full")
    for sources, settings, words in (
        ([a, b], {"how": "mean"}, "no merge method"),
        ([a], {}, "1 adapters"),
        ([a, b], {"how": "svd", "rank": 4096}, "narrowest layer"),
        ([a, str(tmp_path / "full")], {}, "only adapters of train.method=lora"),
    ):
        with pytest.raises(BadRecipe, match=words):
            merge(sources, [1.0] * len(sources), MergeOptions(**settings), tmp_path / "none")
    with pytest.raises(NotFound, match="no run `nowhere`"):
        merge([a, "nowhere"], [1.0, 1.0], MergeOptions(), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_adapter_on_another_is_kept_as_both_on_the_untouched_base(
    pair, recipe_of, dataset, tmp_path
):
    below = pair[1]
    recipe = recipe_of(
        "model.dtype=float32", "train.max_steps=4", "train.method.rank=3",
        f"train.method.stack_on={below}", "train.method.targets=[q_proj,down_proj]",
    )  # fmt: skip
    plain = recipe_of(
        "model.dtype=float32", "train.max_steps=4", "train.method.rank=3",
        "train.method.targets=[q_proj,down_proj]",
    )  # fmt: skip
    train(plain, dataset, out=tmp_path / "plain")
    train(recipe, dataset, out=tmp_path / "both")

    both, one = updates(tmp_path / "both"), updates(below)
    moved = {name: both[name] - one[name] for name in both}
    for name, change in moved.items():
        sizes = torch.linalg.svdvals(change)
        if name.endswith(("q_proj", "down_proj")):
            assert sizes[0] > 1e-3 and sizes[3] < 1e-3 * sizes[0], name
        else:
            assert sizes[0] < 1e-5, name
    top = updates(tmp_path / "plain")
    name = next(name for name in top if name.endswith("q_proj"))
    assert not torch.allclose(moved[name], top[name], atol=1e-6), "it learnt on other weights"
    model, _ = load_artifact_model(open_artifact(tmp_path / "both" / "artifact"), torch.float32)
    with torch.no_grad():
        assert model(torch.tensor([[5, 6, 7, 8]])).logits.isfinite().all()


def test_a_stacked_training_that_is_killed_goes_on_to_the_same_bits(
    pair, recipe_of, dataset, tmp_path
):
    recipe = recipe_of("train.max_steps=7", f"train.method.stack_on={pair[0]}")
    train(recipe, dataset, out=tmp_path / "whole")

    def cut():
        die_at_sync(14)
        train(recipe, dataset, out=tmp_path / "cut")

    assert in_child(cut) == -9
    train(recipe, dataset, resume=tmp_path / "cut")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert Run(tmp_path / "cut").recipe.train.method.stack_on == str(pair[0])
