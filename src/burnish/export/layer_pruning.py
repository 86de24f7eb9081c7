"""Depth pruning at export: drop the layers that change their input least.

A layer's block influence is 1 - cos(input, output), the mean over tokens (ShortGPT, Men et al.
2024, arXiv:2403.03853). Zeroing single weights (magnitude, Wanda, 2:4) saves nothing here: the
formats and engines of `export.formats` compute with whole matrices.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from burnish.core.atomic import hash_file, write_json
from burnish.core.errors import BadRecipe
from burnish.core.progress import progress, say
from burnish.core.recipe.recipe import Recipe
from burnish.export.formats.importance_matrix import training_texts
from burnish.models.artifact import Artifact, open_artifact
from burnish.models.local_models import ARTIFACT_FILE
from burnish.models.merge import load_merged_model
from burnish.models.pruning.depth import keep_layers, layers_of


@contextmanager
def drop_layers(recipe: Recipe, artifact: Artifact) -> Iterator[Artifact]:
    """Yield the artifact, or a copy without `export.drop_layers` layers.

    The copy lives in a temporary folder and is deleted after the `with` block. Raises BadRecipe if
    the model has too few layers, or there are no training rows to measure them by.
    """
    count = recipe.export.drop_layers
    if not count:
        yield artifact
        return
    model, tokenizer = load_merged_model(artifact)
    total = model.config.num_hidden_layers
    if count >= total:
        raise BadRecipe(
            f"The model has {total} layers; {count} can't be dropped.",
            f"Set export.drop_layers to less than {total}.",
        )
    influence = block_influence(model, training_texts(recipe, tokenizer))
    dropped = sorted(sorted(range(total), key=lambda layer: influence[layer])[:count])
    keep_layers(model, [layer for layer in range(total) if layer not in dropped])
    description = ", ".join(f"{layer + 1} ({influence[layer]:.3f})" for layer in dropped)
    say(f"Dropped layers of {total}, with their block influence: {description}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)
        files = {file.name: hash_file(file) for file in sorted(folder.iterdir())}
        facts = {"kind": "full", "dropped_layers": [n + 1 for n in dropped], "files": files}
        write_json(folder / ARTIFACT_FILE, {**artifact.lineage, **facts})
        yield open_artifact(folder)


@torch.no_grad()
def block_influence(model: Any, texts: Sequence[Sequence[int]]) -> list[float]:
    """Return the block influence of each layer, measured on tokenized texts: 0 is a layer that does
    nothing."""
    layers = layers_of(model)
    sums, tokens = [0.0] * len(layers), 0
    hooks = [
        layer.register_forward_hook(_influence_hook(sums, n)) for n, layer in enumerate(layers)
    ]
    try:
        with progress("Measuring the layers", total=len(texts)) as bar:
            for ids in texts:
                model(input_ids=torch.tensor([list(ids)]), use_cache=False, logits_to_keep=1)
                tokens += len(ids)
                bar.advance()
    finally:
        for hook in hooks:
            hook.remove()
    return [total / tokens for total in sums]


def _influence_hook(sums: list[float], number: int) -> Callable[..., None]:
    def add(layer: Any, inputs: tuple[Any, ...], output: Any) -> None:
        hidden_states = output[0] if isinstance(output, tuple) else output
        similarity = torch.nn.functional.cosine_similarity(
            inputs[0].float(), hidden_states.float(), dim=-1
        )
        sums[number] += float((1 - similarity).sum())

    return add
