"""The importance matrix (imatrix): which input columns of a matrix the training rows use.

It is the mean square of each input column, for every matrix inside the layers; llama.cpp's
quantizers weight their errors by it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import BadRecipe
from burnish.core.progress import progress
from burnish.core.recipe.recipe import Recipe
from burnish.core.recipe.support import allowed
from burnish.data.load import load
from burnish.data.split import sample_rows
from burnish.export.formats.gguf import map_layer_tensor
from burnish.models.artifact import Artifact
from burnish.models.chat_template import encode_row, split_as_served
from burnish.models.merge import load_merged_model

#: GGUF's name of a matrix (`blk.3.attn_q`) → mean square of each input column (width,).
Importance = Mapping[str, np.ndarray]
#: Formats of `--to` that support it.
IMPORTANCE_FORMATS = allowed("export", "importance", "format")
_ROWS = 256
#: Lower bound, as a share of a matrix's mean: unused columns must not become arbitrary.
_FLOOR = 1e-3


def compute_importance(recipe: Recipe, artifact: Artifact) -> Importance | None:
    """Return the importance matrix from up to 256 of the recipe's training rows; None unless
    requested.

    Raises BadRecipe without training rows.
    """
    if not recipe.export.importance:
        return None
    model, tokenizer = load_merged_model(artifact)
    return measure_importance(model, training_texts(recipe, tokenizer))


def training_texts(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, ...]]:
    """Return up to 256 of the recipe's training rows as tokens. Raises BadRecipe if there are
    none."""
    rows = sample_rows(load(recipe).split.train, _ROWS, recipe.evaluate.seed)
    if not rows:
        raise BadRecipe("There are no training rows to measure the model with.")
    parts = [part for row in rows for part in split_as_served(tokenizer, row)]
    return [encode_row(tokenizer, part, recipe.train.max_length).ids for part in parts]


def measure_importance(model: Any, texts: Sequence[Sequence[int]]) -> Importance:
    """Return the importance of a model's matrices inside the layers, measured on tokenized
    texts."""
    sums: dict[str, torch.Tensor] = {}
    tokens = 0
    hooks = [
        module.register_forward_pre_hook(_sum_hook(sums, _gguf_name(name, module, model.config)))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name
    ]
    try:
        with torch.no_grad(), progress("Measuring the importance", total=len(texts)) as bar:
            for ids in texts:
                model.model(input_ids=torch.tensor([list(ids)]))
                tokens += len(ids)
                bar.advance()
    finally:
        for hook in hooks:
            hook.remove()
    means = {name: (total / tokens).numpy() for name, total in sums.items()}
    return {name: np.maximum(mean, _FLOOR * mean.mean()) for name, mean in means.items()}


def _gguf_name(name: str, module: torch.nn.Linear, config: Any) -> str:
    target, layer, _ = map_layer_tensor(f"{name}.weight", module.weight.detach(), config)
    return f"blk.{layer}.{target}"


def _sum_hook(sums: dict[str, torch.Tensor], name: str) -> Callable[[Any, tuple[Any, ...]], None]:
    def add(module: Any, inputs: tuple[Any, ...]) -> None:
        squares = inputs[0].detach().float().flatten(0, -2).square().sum(0)
        sums[name] = sums[name] + squares if name in sums else squares

    return add
