"""A model without the layers that change least: fewer products, fewer bytes, in every format.

What a layer changes is its block influence: 1 - cos of what goes in and what comes out, the mean
over tokens (ShortGPT, Men et al. 2024, arXiv:2403.03853). Single weights that are set to zero
(magnitude, Wanda, 2:4) save nothing here: the formats and engines of `export.formats` compute with
whole matrices.
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
    """The artifact as it is, or one that lacks as many layers as `export.drop_layers` says.

    The other one lies in a temporary folder and is gone behind the `with`. Raises BadRecipe if the
    model has too few layers, or there are no training rows to measure them by.
    """
    count = recipe.export.drop_layers
    if not count:
        yield artifact
        return
    model, tokenizer = load_merged_model(artifact)
    total = model.config.num_hidden_layers
    if count >= total:
        raise BadRecipe(
            f"The model has {total} layers; {count} can't be left out.",
            f"Set export.drop_layers to less than {total}.",
        )
    found = block_influence(model, training_texts(recipe, tokenizer))
    dropped = sorted(sorted(range(total), key=lambda place: found[place])[:count])
    keep_layers(model, [place for place in range(total) if place not in dropped])
    named = ", ".join(f"{place + 1} ({found[place]:.3f})" for place in dropped)
    say(f"Left out of {total} layers, with their block influence: {named}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)
        files = {file.name: hash_file(file) for file in sorted(folder.iterdir())}
        facts = {"kind": "full", "dropped_layers": [n + 1 for n in dropped], "files": files}
        write_json(folder / ARTIFACT_FILE, {**artifact.lineage, **facts})
        yield open_artifact(folder)


@torch.no_grad()
def block_influence(model: Any, texts: Sequence[Sequence[int]]) -> list[float]:
    """The block influence of each layer, by texts as tokens: 0 is a layer that does nothing."""
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
    def add(layer: Any, given: tuple[Any, ...], out: Any) -> None:
        after = out[0] if isinstance(out, tuple) else out
        alike = torch.nn.functional.cosine_similarity(given[0].float(), after.float(), dim=-1)
        sums[number] += float((1 - alike).sum())

    return add
