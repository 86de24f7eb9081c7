"""How a language model is trained: rows as tokens, its layers, its forecast, its artifact."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from burnish.core.atomic import write_json
from burnish.core.errors import AuditFailed, BadData
from burnish.core.progress import say
from burnish.core.recipe.recipe import Recipe
from burnish.core.recipe.train import Train
from burnish.core.records import Row
from burnish.core.runs import Run
from burnish.models.artifact import Artifact, save_artifact
from burnish.models.chat_template import encode_row
from burnish.models.load import device, load_model, training_dtype
from burnish.models.local_models import LocalModel
from burnish.models.token_audit import audit
from burnish.train.adapters.quantization_aware import compute_rounded
from burnish.train.adapters.registry import (
    METHODS,
    language_model,
    settle,
    tokens_before,
    trainable,
)
from burnish.train.batching.examples import Example
from burnish.train.batching.micro_batches import trimmed
from burnish.train.batching.sampler import count_steps, units_of
from burnish.train.distillation.hidden_states import add_matrix, drop_matrix, with_imitation
from burnish.train.distillation.on_policy import with_own_answers
from burnish.train.distillation.teacher_logits import with_lessons
from burnish.train.distributed.fsdp import DividedAdamW, divide
from burnish.train.distributed.process_group import ALONE, Team
from burnish.train.distributed.zero import SharedAdamW
from burnish.train.forecast.forecast import forecast, probe, refuse_what_does_not_fit
from burnish.train.forecast.speed_hints import ways_to_be_faster
from burnish.train.kernels.compile import compile_layers, compile_seconds
from burnish.train.kernels.fused_layers import fuse
from burnish.train.kernels.packed_attention import ATTENTION
from burnish.train.loop.checkpoint import State, load_weights
from burnish.train.loop.language_model import Fit
from burnish.train.loop.peak_memory import give_back, reset_peak
from burnish.train.loop.trainer import Course, Given
from burnish.train.objectives.registry import OBJECTIVES
from burnish.train.optim.adamw import MasterAdamW
from burnish.train.rlhf.reference import with_reference
from burnish.train.rlhf.rollouts import with_drawing


def encoded(
    rows: tuple[Row, ...], tokenizer: PreTrainedTokenizerBase, recipe: Recipe
) -> list[Example]:
    """Rows as tokens, after the token audit. Raises AuditFailed: the audit is a hard stop.

    Raises BadData for rows that aren't what the objective learns from.
    """
    objective = OBJECTIVES[recipe.train.objective.kind](recipe.train.objective)
    refuse_unlearnable([objective.audited(row) for row in rows], tokenizer, recipe)
    before = tokens_before(recipe.train.method)
    return objective.examples(
        rows,
        lambda row: trimmed(encode_row(tokenizer, row, recipe.train.max_length)).behind(before),
    )


def refuse_unlearnable(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, recipe: Recipe
) -> None:
    """The token audit as a hard stop. Raises AuditFailed."""
    findings = audit(rows, tokenizer, recipe.train.max_length)
    if errors := [finding for finding in findings if finding.severity == "error"]:
        first = errors[0]
        more = f" (and {len(errors) - 1} more findings)" if len(errors) > 1 else ""
        raise AuditFailed(f"{first.said}{more}", first.fix)


def prepare(
    recipe: Recipe,
    base: LocalModel,
    rows: list[Example],
    validation: list[Example],
    team: Team = ALONE,
) -> Fit:
    """The model with its trainable weights marked, optimizer and objective: ready to fit."""
    if not rows:
        raise BadData("There are no training rows.", "Name a file with rows in data.train.")
    settings = recipe.train
    if settings.threads or team.size > 1:
        torch.set_num_threads(settings.threads or max(torch.get_num_threads() // team.size, 1))
    # What is divided goes to the devices in parts; no device need hold the whole.
    place = torch.device("cpu") if settings.divides_weights else device()
    model = METHODS[settings.method.kind](
        load_model(base, training_dtype(recipe.model.dtype), place), settings.method
    )
    add_matrix(model, settings)
    language = language_model(model)
    language.set_attn_implementation(ATTENTION)
    fuse(model)
    if settings.quantization_aware:
        compute_rounded(model)
    if settings.gradient_checkpointing:
        language.activation_checkpointing_enable({"use_reentrant": False})
    if settings.compile:
        compile_layers(language)
    accelerator = Accelerator(cpu=device().type == "cpu")
    steps = count_steps(len(rows), settings)
    optimizer = _optimizer(model, settings, steps, team)
    texts = sum(file.stat().st_size for file in base.path.glob("*.json"))
    weights = sum(w.numel() * w.element_size() for w in trainable(model).values())
    return Fit(
        model=model,
        language=language,
        objective=OBJECTIVES[settings.objective.kind](settings.objective),
        optimizer=optimizer,
        rows=rows,
        units=units_of(rows, settings),
        validation=validation,
        settings=settings,
        accelerator=accelerator,
        team=team,
        artifact_bytes=weights + texts,
    )


def _optimizer(model: Any, settings: Train, steps: int, team: Team) -> MasterAdamW:
    if settings.divides_weights:
        divide(language_model(model), team)
        return DividedAdamW(trainable(model), settings, steps, team)
    if team.size > 1:
        return SharedAdamW(trainable(model), settings, steps, team)
    return MasterAdamW(trainable(model), settings, steps)


def seed_everything(seed: int) -> None:
    """Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def encoded_splits(given: Given) -> tuple[list[Example], list[Example]]:
    """Rows to learn from and to validate, as tokens. Raises what `encoded` raises."""
    split = given.dataset.split
    rows, validation = (
        encoded(part, given.tokenizer, given.recipe) for part in (split.train, split.validation)
    )
    return rows, validation


def _prepared(given: Given, run: Run, rows: Sequence[Any], validation: Sequence[Any]) -> Fit:
    plan = prepare(given.recipe, given.base, list(rows), list(validation), given.team)
    return with_drawing(plan, given.tokenizer, given.dataset.task, run)


def _rehearsed(plan: Fit, given: Given, run: Run, state: State) -> Fit:
    """The plan with what a teacher or the model itself says beforehand, and its forecast made.

    Raises DoesNotFit.
    """
    plan = with_own_answers(_taught(plan, given), given.tokenizer)
    plan = with_imitation(plan, given.tokenizer)
    reset_peak()
    if not state.step:
        seen = probe(plan, run.path)
        if plan.settings.compile:
            say(f"Compiling the layers took {compile_seconds():.0f} s.")
        expected = forecast(plan, seen)
        if plan.team.leads:
            write_json(run.path / "forecast.json", expected.as_list())
            refuse_what_does_not_fit(seen, expected, run.path)
            for hint in ways_to_be_faster(plan, expected):
                say(hint)
    return with_reference(plan, run, state)


def _taught(plan: Fit, given: Given) -> Fit:
    """Of a team the leader asks the teacher, and the others read what it has kept."""
    rows = (*given.dataset.split.train, *given.dataset.split.validation)
    mine = with_lessons(plan, given.tokenizer, rows) if plan.team.leads else plan
    plan.team.share("asked")
    return mine if plan.team.leads else with_lessons(plan, given.tokenizer, rows)


def _save(folder: Path, plan: Fit, given: Given, lineage: Mapping[str, Any]) -> Artifact:
    model = plan.model
    if plan.settings.divides_weights:
        model = _undivided(folder.parent, plan, given, lineage["step"])
    drop_matrix(model)
    settle(model)
    return save_artifact(folder, model, given.tokenizer, given.base, lineage)


def _undivided(run: Path, plan: Fit, given: Given, step: int) -> Any:
    """The whole model with the weights of a checkpoint, as the leader writes it."""
    give_back()
    model = METHODS[plan.settings.method.kind](
        load_model(given.base, training_dtype(given.recipe.model.dtype), torch.device("cpu")),
        plan.settings.method,
    )
    weights = trainable(model)
    with torch.no_grad():
        for name, exact in load_weights(run / "checkpoints", step).items():
            weights[name].copy_(exact)
    return model


LANGUAGE = Course(encoded_splits, _prepared, _save, _rehearsed)
