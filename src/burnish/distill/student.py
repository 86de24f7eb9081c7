"""The student: its training recipe and its initial model.

It may start as a pruned model: with fewer layers, as DistilBERT starts with every other layer of
its teacher (Sanh et al. 2019, arXiv:1910.01108), since a dropped layer is mostly similar to its
neighbours (ShortGPT, Men et al. 2024, arXiv:2403.03853); or with narrower ones (`distill.pruning`).
A pruned model answers badly until trained. It is stored among the local models, under its own name.
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
    Resolved,
    find_model,
    model_folder,
    read_manifest,
    write_manifest,
)
from burnish.models.merge import check_mergeable
from burnish.models.pruning.vocabulary import write_pieces


def student_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe of the student's training; its task is resolved.

    Raises BadRecipe for an impossible combination, before anything is asked.
    """
    _refuse_unteachable(recipe)
    _refuse_reasoning(recipe)
    refuse_unpaired(recipe)
    train = recipe.train.model_copy(update={"objective": _with_teacher(recipe)})
    model = recipe.model.model_copy(update={"name": prepare_student(recipe)})
    return recipe.model_copy(update={"model": model, "train": train})


def _with_teacher(recipe: Recipe) -> Any:
    """Return the objective with the teacher's name filled in, where it needs one."""
    objective = recipe.train.objective
    if isinstance(objective, Distillation) and not objective.teacher:
        if recipe.distill.teacher.endpoint:
            raise BadRecipe(
                "train.objective=distill needs the teacher's distributions; an endpoint returns "
                "text only.",
                "Set train.objective=sft, or name a local run or model in train.objective.teacher.",
            )
        return objective.model_copy(update={"teacher": recipe.distill.teacher.model})
    if isinstance(objective, Classify) and objective.matches_internals:
        return objective.model_copy(update={"teacher": objective.teacher or recipe.model.name})
    return objective


def sequence_level(recipe: Recipe) -> Recipe:
    """Return the same training on answers alone, for rows without the teacher."""
    if isinstance(recipe.train.objective, Classify):
        return recipe
    train = recipe.train.model_copy(update={"objective": Sft()})
    return recipe.model_copy(update={"train": train})


def _refuse_unteachable(recipe: Recipe) -> None:
    """Raise BadRecipe if model, objective and task don't go together."""
    objective, settings = recipe.train.objective, recipe.distill
    if not isinstance(objective, Classify):
        if recipe.train.is_encoding or isinstance(objective, Seq2Seq):
            raise BadRecipe(
                f"A student trains on a teacher's text; train.objective is {objective.kind}.",
                "Leave train.objective out; for labels, set it to classify.",
            )
        is_teachers = settings.pruning_steps and settings.layers_of == "teacher"
        kind = "causal" if is_teachers else Resolved.of(recipe).base.kind
        if kind != "causal":
            reasons = {"seq2seq": "is an encoder-decoder", "vision": "is a vision-language model"}
            reason = reasons.get(kind, "generates no text")
            raise BadRecipe(
                f"{recipe.model.name} {reason}, so it can't train on a teacher's text.",
                "For labels, set train.objective=classify; else use a language model.",
            )
        return
    if recipe.task.kind != "classification":
        raise BadRecipe(
            f"train.objective=classify needs labels; the task is {recipe.task.kind}.",
            "Set task.kind to classification if the answers are labels.",
        )
    if settings.pairs != "none":
        raise BadRecipe(
            "A classifying student has no answers of its own to pair.",
            "Set distill.pairs=none.",
        )


def _refuse_reasoning(recipe: Recipe) -> None:
    """Raise BadRecipe if reasoning is to be trained and can't be."""
    settings = recipe.distill
    if settings.reasoning == "cut":
        return
    reasons = {
        "A classifying student writes no reasoning": isinstance(recipe.train.objective, Classify),
        "Answer pairs have no reasoning": settings.pairs != "none",
        "Questions from documents have no reasoning": settings.questions_per_passage > 0,
    }
    for reason, applies in reasons.items():
        if applies:
            raise BadRecipe(
                f"{reason}, and distill.reasoning is {settings.reasoning}.",
                "Set distill.reasoning=cut.",
            )


def prepare_student(recipe: Recipe) -> str:
    """Return the name of the student's initial model, pruned if the recipe says so.

    Raises BadRecipe if there are too few layers, NotFound if the model isn't here.
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
    max_tokens = recipe.train.max_length
    inputs = [*sizes, max_tokens, *map(content_hash, rows)] if rows else []
    origin = hash_json([hash_weights(source), settings.layers, *inputs])
    artifact = find_artifact(source)
    base = find_model(artifact.base if artifact else source)
    # Other rows keep other neurons and tokens.
    suffix = f"-{origin[:6]}" if artifact or rows else ""
    steps = "-".join(settings.pruning_steps).replace(" ", "-")
    name = f"{base.name.replace('/', '--')}-{steps}{suffix}"
    folder = model_folder(name)
    if (folder / MANIFEST).exists() and read_manifest(folder)["source"] == f"cut:{origin}":
        return name
    model, tokenizer = _load_uncut(base, artifact)
    writes = bool(artifact) or base.kind == "causal"
    texts = tokenize_rows(rows, tokenizer, writes, max_tokens)
    pieces = prune(model, tokenizer, settings, texts)
    say(f"Student: {', '.join(settings.pruning_steps)} of {source}.")
    manifest = read_manifest(base.path)
    with atomic_folder(folder, replace=True) as draft:
        _save(draft, model, tokenizer if writes else None, base)
        if pieces:
            write_pieces(draft, pieces)
        write_manifest(draft, {**manifest, "name": name, "source": f"cut:{origin}"})
    return name


def _load_uncut(base: LocalModel, artifact: Artifact | None) -> tuple[Any, Any]:
    """Load model and tokenizer before pruning."""
    if artifact:
        check_mergeable(artifact)
        model, tokenizer = load_artifact_model(artifact, torch.float32)
        return model.merge_and_unload() if hasattr(model, "peft_config") else model, tokenizer
    if base.kind == "causal":
        return load_model(base, torch.float32), load_tokenizer(base)
    encoder: Any = AutoModel.from_pretrained(base.path, dtype=torch.float32, local_files_only=True)
    return encoder, load_tokenizer(base)


def _save(draft: Path, model: Any, tokenizer: Any, base: LocalModel) -> None:
    """Save weights and tokenizer; for an encoder also all its other files, which say how to read
    it."""
    if tokenizer is None:
        others = shutil.ignore_patterns("*.safetensors", "*.bin", MANIFEST)
        shutil.copytree(base.path, draft, ignore=others, dirs_exist_ok=True)
    model.save_pretrained(draft, safe_serialization=True)
    if tokenizer is not None:
        tokenizer.save_pretrained(draft)
