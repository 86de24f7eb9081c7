"""Which columns of a matrix the training rows use: rounding may then err where it matters least.

llama.cpp calls it the importance matrix (imatrix): for each matrix inside the layers the mean
square of what comes into each of its columns. Its quantisers weigh their errors by it.
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
#: Formats of `--to` whose matrices are rounded with it.
IMPORTANCE_FORMATS = allowed("export", "importance", "format")
_ROWS = 256
#: Of a matrix's mean: a column that the rows never use isn't free to become anything.
_FLOOR = 1e-3


def compute_importance(recipe: Recipe, artifact: Artifact) -> Importance | None:
    """The importance by up to 256 of the recipe's training rows; None unless it is asked for.

    Raises BadRecipe without training rows.
    """
    if not recipe.export.importance:
        return None
    model, tokenizer = load_merged_model(artifact)
    return measure_importance(model, training_texts(recipe, tokenizer))


def training_texts(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, ...]]:
    """Up to 256 of the recipe's training rows as tokens. Raises BadRecipe if there are none."""
    rows = sample_rows(load(recipe).split.train, _ROWS, recipe.evaluate.seed)
    if not rows:
        raise BadRecipe("There are no training rows to measure the model by.")
    parts = [part for row in rows for part in split_as_served(tokenizer, row)]
    return [encode_row(tokenizer, part, recipe.train.max_length).ids for part in parts]


def measure_importance(model: Any, texts: Sequence[Sequence[int]]) -> Importance:
    """The importance of a model's matrices inside the layers, by texts as tokens."""
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
    return {name: np.maximum(one, _FLOOR * one.mean()) for name, one in means.items()}


def _gguf_name(name: str, module: torch.nn.Linear, config: Any) -> str:
    target, layer, _ = map_layer_tensor(f"{name}.weight", module.weight.detach(), config)
    return f"blk.{layer}.{target}"


def _sum_hook(sums: dict[str, torch.Tensor], place: str) -> Callable[[Any, tuple[Any, ...]], None]:
    def add(module: Any, given: tuple[Any, ...]) -> None:
        squares = given[0].detach().float().flatten(0, -2).square().sum(0)
        sums[place] = sums[place] + squares if place in sums else squares

    return add
