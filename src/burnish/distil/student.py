"""A smaller student: some of a model's layers, as weights to begin from.

Kept are layers evenly apart, with the first and the last one, as DistilBERT begins with every other
layer of its teacher (Sanh et al. 2019, arXiv:1910.01108); what is cut is mostly near a copy of its
neighbours (ShortGPT, Men et al. 2024, arXiv:2403.03853). Cut, a model answers badly: it is meant to
learn. It is kept among the models of this machine, under a name of its own.
"""

from typing import Any

import torch

from burnish.core.errors import BadRecipe
from burnish.core.folders import hash_json, whole_folder
from burnish.core.progress import say
from burnish.core.recipe import Recipe
from burnish.engines.local import find_artifact, weights_hash
from burnish.models.artifact import load_artifact_model
from burnish.models.layers import keep_layers
from burnish.models.load import load_model, load_tokenizer
from burnish.models.local import MANIFEST, find_model, folder_of, read_manifest, write_manifest
from burnish.models.merge import refuse_unmergeable


def student_of(recipe: Recipe) -> str:
    """The name of the model that the student begins as; cut if the recipe says so.

    Raises BadRecipe if there are no such layers, NotFound if the model isn't here.
    """
    settings = recipe.distil
    if settings.layers is None:
        return find_model(recipe.model.name).name
    if settings.layers_of == "teacher" and settings.teacher.endpoint:
        raise BadRecipe(
            "A teacher behind an endpoint has no layers to cut.", "Set distil.layers_of=model."
        )
    source = settings.teacher.model if settings.layers_of == "teacher" else recipe.model.name
    origin = hash_json([weights_hash(source), settings.layers])
    artifact = find_artifact(source)
    base = find_model(artifact.base if artifact else source)
    mark = f"-{origin[:6]}" if artifact else ""
    name = f"{base.name.replace('/', '--')}-{settings.layers}-layers{mark}"
    folder = folder_of(name)
    if (folder / MANIFEST).exists() and read_manifest(folder)["source"] == f"cut:{origin}":
        return name
    if artifact:
        refuse_unmergeable(artifact)
        model, tokenizer = load_artifact_model(artifact, torch.float32)
        model = model.merge_and_unload() if hasattr(model, "peft_config") else model
    else:
        model, tokenizer = load_model(base, torch.float32), load_tokenizer(base)
    kept = cut_layers(model, settings.layers)
    say(f"Student: layers {', '.join(str(place + 1) for place in kept)} of {source}.")
    before = read_manifest(base.path)
    with whole_folder(folder, replace=True) as draft:
        model.save_pretrained(draft, safe_serialization=True)
        tokenizer.save_pretrained(draft)
        write_manifest(draft, {**before, "name": name, "source": f"cut:{origin}"})
    return name


def cut_layers(model: Any, count: int) -> list[int]:
    """Keep `count` layers of a decoder, in place; returns which. Raises BadRecipe for too many."""
    total = model.config.num_hidden_layers
    if count > total:
        raise BadRecipe(
            f"The model has {total} layers; {count} can't be kept.", f"Set distil.layers={total}."
        )
    kept = [round(place * (total - 1) / (count - 1)) for place in range(count)]
    keep_layers(model, kept)
    return kept
