"""What rounding by importance is worth: KL divergence and agreement with the unrounded model.

    python benchmarks/importance.py RUN [--rows 100] [--quants q4_0 q4_k_m q5_0 q5_k_m]

The matrices inside the layers are rounded as `burnish export --to gguf` does, with and without the
importance by training rows, and put back; the embedding stays. Test rows, their answers' tokens.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import gguf
import torch

from burnish.core.recipe.recipe import make_recipe
from burnish.core.runs import find_run
from burnish.data.load import load
from burnish.data.split import sample_rows
from burnish.export.formats.gguf import map_layer_tensor
from burnish.export.formats.gguf_quants import QUANTS, fallback_kind, quantize_matrix
from burnish.export.formats.importance_matrix import Importance, compute_importance
from burnish.models.artifact import open_artifact
from burnish.models.chat_template import TokenizedRow, encode_row
from burnish.models.merge import load_merged_model


def logs_of(model: Any, rows: Sequence[TokenizedRow]) -> torch.Tensor:
    """Log-probabilities (tokens, vocabulary) before each token of each answer."""
    found = []
    with torch.no_grad():
        for row in rows:
            learnt = [n - 1 for n, weight in enumerate(row.weights) if weight > 0]
            hidden = model.model(input_ids=torch.tensor([list(row.ids)])).last_hidden_state
            found.append(model.lm_head(hidden[0, learnt]).log_softmax(-1))
    return torch.cat(found)


def rounded(
    model: Any, weights: Mapping[str, torch.Tensor], quant: str, by: Importance | None
) -> None:
    """Put the rounded matrices into the model."""
    layers = model.config.num_hidden_layers
    for name, weight in weights.items():
        target, layer, _ = map_layer_tensor(name, weight, model.config)
        kind = fallback_kind(QUANTS[quant].kind(target, layer, layers), weight.shape[1])
        given = by.get(f"blk.{layer}.{target}") if by else None
        back = gguf.quants.dequantize(quantize_matrix(weight.numpy(), kind, given), kind)
        model.get_submodule(name.removesuffix(".weight")).weight.data.copy_(torch.tensor(back))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--quants", nargs="+", default=["q4_0", "q4_k_m", "q5_0", "q5_k_m"])
    given = parser.parse_args()
    run = find_run(given.run)
    changes = ["export.to=gguf", "export.importance=true"]
    recipe = make_recipe(run.recipe.model_dump(mode="json"), changes)
    artifact = open_artifact(run.artifact)
    importance = compute_importance(recipe, artifact)
    model, tokenizer = load_merged_model(artifact)
    asked = sample_rows(load(recipe).split.test, given.rows, 1)
    rows = [encode_row(tokenizer, row, recipe.train.max_length) for row in asked]
    weights = {
        name: weight.clone()
        for name, weight in model.state_dict().items()
        if ".layers." in name and weight.ndim == 2
    }
    ours = logs_of(model, rows)
    print("| format | importance | KL, nats | same first choice |\n|---|---|---|---|", flush=True)
    for quant in given.quants:
        for by in (None, importance):
            rounded(model, weights, quant, by)
            theirs = logs_of(model, rows)
            apart = (ours.exp() * (ours - theirs)).sum(-1).mean()
            same = (ours.argmax(-1) == theirs.argmax(-1)).float().mean()
            print(f"| {quant} | {'yes' if by else 'no'} | {apart:.4f} | {same:.1%} |", flush=True)


if __name__ == "__main__":
    main()
