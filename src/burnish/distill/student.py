"""The student: how it is trained, and what it begins as.

It may begin as a part of a model: fewer layers, as DistilBERT begins with every other layer of its
teacher (Sanh et al. 2019, arXiv:1910.01108), since what is cut is mostly near a copy of its
neighbours (ShortGPT, Men et al. 2024, arXiv:2403.03853); or narrower ones
(`distill.pruning`). A cut model answers badly until it learns. It is kept among the models of this
machine, under a name of its own.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel

from burnish.core.atomic import atomic_folder, hash_json
from burnish.core.errors import BadRecipe
from burnish.core.progress import say
from burnish.core.recipe.objectives import Classify, Distillation, Seq2Seq, Sft
from burnish.core.recipe.recipe import Recipe
from burnish.data.duplicates import content_hash
from burnish.distill.preference_pairs import refuse_unpaired
from burnish.distill.pruning import calibration_rows, prune, tokenize_rows
from burnish.models.artifact import Artifact, load_artifact_model
from burnish.models.find_artifact import find_artifact, hash_weights
from burnish.models.load import load_model, load_tokenizer
from burnish.models.local_models import (
    MANIFEST,
    LocalModel,
    find_model,
    model_folder,
    read_manifest,
    write_manifest,
)
from burnish.models.merge import check_mergeable
from burnish.models.pruning.vocabulary import write_pieces
from burnish.models.resolved import Resolved


def student_recipe(recipe: Recipe) -> Recipe:
    """The recipe by which the student is trained; its task is known.

    Raises BadRecipe for what can't be learnt so, before anybody is asked.
    """
    _refuse_unteachable(recipe)
    _refuse_reasoning(recipe)
    refuse_unpaired(recipe)
    train = recipe.train.model_copy(update={"objective": _with_teacher(recipe)})
    model = recipe.model.model_copy(update={"name": prepare_student(recipe)})
    return recipe.model_copy(update={"model": model, "train": train})


def _with_teacher(recipe: Recipe) -> Any:
    """The objective with the teacher's name, where it needs one and none is given."""
    objective = recipe.train.objective
    if isinstance(objective, Distillation) and not objective.teacher:
        if recipe.distill.teacher.endpoint:
            raise BadRecipe(
                "train.objective=distill needs the teacher's distributions, and an endpoint gives "
                "only its words.",
                "Set train.objective=sft, or name a local run or model in train.objective.teacher.",
            )
        return objective.model_copy(update={"teacher": recipe.distill.teacher.model})
    if isinstance(objective, Classify) and objective.matches_internals:
        return objective.model_copy(update={"teacher": objective.teacher or recipe.model.name})
    return objective


def sequence_level(recipe: Recipe) -> Recipe:
    """The same training on answers alone, for rows that the teacher had no part in."""
    if isinstance(recipe.train.objective, Classify):
        return recipe
    train = recipe.train.model_copy(update={"objective": Sft()})
    return recipe.model_copy(update={"train": train})


def _refuse_unteachable(recipe: Recipe) -> None:
    """Raise BadRecipe where model, objective and task don't go together."""
    objective, settings = recipe.train.objective, recipe.distill
    if not isinstance(objective, Classify):
        if recipe.train.is_encoding or isinstance(objective, Seq2Seq):
            raise BadRecipe(
                f"A student learns a teacher's words, and train.objective is {objective.kind}.",
                "Leave train.objective out; for labels, set it to classify.",
            )
        is_teachers = settings.pruning_steps and settings.layers_of == "teacher"
        kind = "causal" if is_teachers else Resolved.of(recipe).base.kind
        if kind != "causal":
            others = {"seq2seq": "is an encoder-decoder", "vision": "is a model that sees"}
            why = others.get(kind, "writes no text")
            raise BadRecipe(
                f"{recipe.model.name} {why}, so it can't learn a teacher's words.",
                "For labels, set train.objective=classify; else name a language model.",
            )
        return
    if recipe.task.kind != "classification":
        raise BadRecipe(
            f"train.objective=classify is for labels, and the task is {recipe.task.kind}.",
            "Set task.kind to classification if the answers are labels.",
        )
    if settings.pairs != "none":
        raise BadRecipe(
            "A student that chooses labels has no answers of its own to pair.",
            "Set distill.pairs=none.",
        )


def _refuse_reasoning(recipe: Recipe) -> None:
    """Raise BadRecipe where thoughts are to be learnt and can't be."""
    settings = recipe.distill
    if settings.reasoning == "cut":
        return
    reasons = {
        "A student that chooses labels writes no thoughts": isinstance(
            recipe.train.objective, Classify
        ),
        "Pairs are of answers without thoughts": settings.pairs != "none",
        "Questions from documents come without thoughts": settings.questions_per_passage > 0,
    }
    for why, is_so in reasons.items():
        if is_so:
            raise BadRecipe(
                f"{why}, and distill.reasoning is {settings.reasoning}.",
                "Set distill.reasoning=cut.",
            )


def prepare_student(recipe: Recipe) -> str:
    """The name of the model that the student begins as; cut if the recipe says so.

    Raises BadRecipe if there are no such layers, NotFound if the model isn't here.
    """
    settings = recipe.distill
    if not settings.pruning_steps:
        return Resolved.of(recipe).base.name
    if settings.layers_of == "teacher" and settings.teacher.endpoint:
        raise BadRecipe(
            "A teacher behind an endpoint has no layers to cut.", "Set distill.layers_of=model."
        )
    source = settings.teacher.model if settings.layers_of == "teacher" else recipe.model.name
    rows = calibration_rows(recipe)
    sizes = [settings.neurons, settings.heads, settings.vocab_size]
    most = recipe.train.max_length
    by = [*sizes, most, *map(content_hash, rows)] if rows else []
    origin = hash_json([hash_weights(source), settings.layers, *by])
    artifact = find_artifact(source)
    base = find_model(artifact.base if artifact else source)
    # Other rows leave other neurons and pieces.
    mark = f"-{origin[:6]}" if artifact or rows else ""
    kept = "-".join(settings.pruning_steps).replace(" ", "-")
    name = f"{base.name.replace('/', '--')}-{kept}{mark}"
    folder = model_folder(name)
    if (folder / MANIFEST).exists() and read_manifest(folder)["source"] == f"cut:{origin}":
        return name
    model, tokenizer = _load_uncut(base, artifact)
    writes = bool(artifact) or base.kind == "causal"
    texts = tokenize_rows(rows, tokenizer, writes, most)
    pieces = prune(model, tokenizer, settings, texts)
    say(f"Student: {', '.join(settings.pruning_steps)} of {source}.")
    before = read_manifest(base.path)
    with atomic_folder(folder, replace=True) as draft:
        _save(draft, model, tokenizer if writes else None, base)
        if pieces:
            write_pieces(draft, pieces)
        write_manifest(draft, {**before, "name": name, "source": f"cut:{origin}"})
    return name


def _load_uncut(base: LocalModel, artifact: Artifact | None) -> tuple[Any, Any]:
    """Model and tokenizer before anything is cut."""
    if artifact:
        check_mergeable(artifact)
        model, tokenizer = load_artifact_model(artifact, torch.float32)
        return model.merge_and_unload() if hasattr(model, "peft_config") else model, tokenizer
    if base.kind == "causal":
        return load_model(base, torch.float32), load_tokenizer(base)
    encoder: Any = AutoModel.from_pretrained(base.path, dtype=torch.float32, local_files_only=True)
    return encoder, load_tokenizer(base)


def _save(draft: Path, model: Any, tokenizer: Any, base: LocalModel) -> None:
    """Weights and tokenizer; of an encoder all its other files, which say how to read it."""
    if tokenizer is None:
        others = shutil.ignore_patterns("*.safetensors", "*.bin", MANIFEST)
        shutil.copytree(base.path, draft, ignore=others, dirs_exist_ok=True)
    model.save_pretrained(draft, safe_serialization=True)
    if tokenizer is not None:
        tokenizer.save_pretrained(draft)
