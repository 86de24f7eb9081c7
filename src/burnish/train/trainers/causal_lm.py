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
from burnish.models.load import default_device, load_model, training_dtype
from burnish.models.local_models import LocalModel
from burnish.models.token_audit import audit
from burnish.train.adapters.quantization_aware import use_rounded_weights
from burnish.train.adapters.registry import (
    METHODS,
    finalize_adapter,
    language_model,
    soft_prompt_ids,
    trainable_weights,
)
from burnish.train.batching.examples import Example, all_answers
from burnish.train.batching.micro_batches import trim_to_target
from burnish.train.batching.sampler import count_steps, group_rows
from burnish.train.distillation.hidden_states import (
    add_hidden_state_matching,
    add_projection,
    drop_projection,
)
from burnish.train.distillation.on_policy import add_on_policy_answers
from burnish.train.distillation.teacher_logits import add_teacher_logits
from burnish.train.distributed.fsdp import FsdpAdamW, shard
from burnish.train.distributed.process_group import SINGLE, ProcessGroup
from burnish.train.distributed.zero import ZeroAdamW
from burnish.train.forecast.forecast import check_fits, forecast, probe
from burnish.train.forecast.speed_hints import speed_hints
from burnish.train.forward.path import forward_path, report_forward_path
from burnish.train.forward.proof import choose_forward_path
from burnish.train.kernels.compile import compile_layers, compile_seconds
from burnish.train.loop.checkpoint import TrainState, load_weights
from burnish.train.loop.language_model import LanguageModelModule
from burnish.train.loop.peak_memory import release_memory, reset_peak
from burnish.train.loop.trainer import TrainContext, Trainer
from burnish.train.objectives.registry import OBJECTIVES
from burnish.train.optim.adamw import MasterAdamW
from burnish.train.rlhf.reference import add_reference_logprobs
from burnish.train.rlhf.rollouts import add_rollouts


def tokenize_rows(
    rows: tuple[Row, ...], tokenizer: PreTrainedTokenizerBase, recipe: Recipe
) -> list[Example]:
    """Rows as tokens, after the token audit. Raises AuditFailed: the audit is a hard stop.

    Raises BadData for rows that aren't what the objective learns from.
    """
    objective = OBJECTIVES[recipe.train.objective.kind](recipe.train.objective)
    check_token_audit([objective.audit_row(row) for row in rows], tokenizer, recipe)
    before = soft_prompt_ids(recipe.train.method)
    return objective.examples(
        rows,
        lambda row: trim_to_target(encode_row(tokenizer, row, recipe.train.max_length)).with_prefix(
            before
        ),
    )


def check_token_audit(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, recipe: Recipe
) -> None:
    """The token audit as a hard stop. Raises AuditFailed."""
    findings = audit(rows, tokenizer, recipe.train.max_length)
    if errors := [finding for finding in findings if finding.severity == "error"]:
        first = errors[0]
        more = f" (and {len(errors) - 1} more findings)" if len(errors) > 1 else ""
        raise AuditFailed(f"{first.summary}{more}", first.fix)


def build_language_model(
    recipe: Recipe,
    base: LocalModel,
    rows: list[Example],
    validation: list[Example],
    team: ProcessGroup = SINGLE,
) -> LanguageModelModule:
    """The model with its trainable weights marked, optimizer and objective: ready to fit."""
    if not rows:
        raise BadData("There are no training rows.", "Name a file with rows in data.train.")
    settings = recipe.train
    if settings.threads or team.size > 1:
        torch.set_num_threads(settings.threads or max(torch.get_num_threads() // team.size, 1))
    # What is divided goes to the devices in parts; no device need hold the whole.
    place = torch.device("cpu") if settings.shards_weights else default_device()
    model = METHODS[settings.method.kind](
        load_model(base, training_dtype(recipe.model.dtype), place), settings.method
    )
    add_projection(model, settings)
    language = language_model(model)
    longest = max(len(answer.ids) for answer in all_answers([*rows, *validation]))
    choose_forward_path(model, language, base.name, longest, soft_prompt_ids(settings.method))
    if settings.quantization_aware:
        use_rounded_weights(model)
    if settings.gradient_checkpointing:
        language.activation_checkpointing_enable({"use_reentrant": False})
    if settings.compile:
        compile_layers(language)
    accelerator = Accelerator(cpu=default_device().type == "cpu")
    steps = count_steps(len(rows), settings)
    optimizer = _make_optimizer(model, settings, steps, team)
    texts = sum(file.stat().st_size for file in base.path.glob("*.json"))
    weights = sum(w.numel() * w.element_size() for w in trainable_weights(model).values())
    return LanguageModelModule(
        model=model,
        language=language,
        objective=OBJECTIVES[settings.objective.kind](settings.objective),
        optimizer=optimizer,
        rows=rows,
        row_groups=group_rows(rows, settings),
        validation=validation,
        settings=settings,
        accelerator=accelerator,
        team=team,
        artifact_bytes=weights + texts,
    )


def _make_optimizer(model: Any, settings: Train, steps: int, team: ProcessGroup) -> MasterAdamW:
    if settings.shards_weights:
        shard(language_model(model), team)
        return FsdpAdamW(trainable_weights(model), settings, steps, team)
    if team.size > 1:
        return ZeroAdamW(trainable_weights(model), settings, steps, team)
    return MasterAdamW(trainable_weights(model), settings, steps)


def seed_everything(seed: int) -> None:
    """Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def tokenize_splits(given: TrainContext) -> tuple[list[Example], list[Example]]:
    """Rows to learn from and to validate, as tokens. Raises what `encoded` raises."""
    split = given.dataset.split
    rows, validation = (
        tokenize_rows(part, given.tokenizer, given.recipe)
        for part in (split.train, split.validation)
    )
    return rows, validation


def _build(
    given: TrainContext, run: Run, rows: Sequence[Any], validation: Sequence[Any]
) -> LanguageModelModule:
    plan = build_language_model(given.recipe, given.base, list(rows), list(validation), given.team)
    if given.team.is_main:
        report_forward_path(plan.language, given.base.name)
        run.events.write(event="forward_path", **forward_path(plan.language).describe())
    return add_rollouts(plan, given.tokenizer, given.dataset.task, run)


def _before_first_step(
    plan: LanguageModelModule, given: TrainContext, run: Run, state: TrainState
) -> LanguageModelModule:
    """The plan with what a teacher or the model itself says beforehand, and its forecast made.

    Raises DoesNotFit.
    """
    plan = add_on_policy_answers(_add_teacher_logits(plan, given), given.tokenizer)
    plan = add_hidden_state_matching(plan, given.tokenizer)
    reset_peak()
    if not state.step:
        seen = probe(plan, run.path)
        if plan.settings.compile:
            say(f"Compiling the layers took {compile_seconds():.0f} s.")
        expected = forecast(plan, seen)
        if plan.team.is_main:
            write_json(run.path / "forecast.json", expected.as_list())
            check_fits(seen, expected, run.path)
            for hint in speed_hints(plan, expected):
                say(hint)
    return add_reference_logprobs(plan, run, state)


def _add_teacher_logits(plan: LanguageModelModule, given: TrainContext) -> LanguageModelModule:
    """Of a team the leader asks the teacher, and the others read what it has kept."""
    rows = (*given.dataset.split.train, *given.dataset.split.validation)
    mine = add_teacher_logits(plan, given.tokenizer, rows) if plan.team.is_main else plan
    plan.team.broadcast("asked")
    return mine if plan.team.is_main else add_teacher_logits(plan, given.tokenizer, rows)


def _save(
    folder: Path, plan: LanguageModelModule, given: TrainContext, lineage: Mapping[str, Any]
) -> Artifact:
    model = plan.model
    if plan.settings.shards_weights:
        model = _load_unsharded(folder.parent, plan, given, lineage["step"])
    drop_projection(model)
    finalize_adapter(model)
    return save_artifact(folder, model, given.tokenizer, given.base, lineage)


def _load_unsharded(run: Path, plan: LanguageModelModule, given: TrainContext, step: int) -> Any:
    """The whole model with the weights of a checkpoint, as the leader writes it."""
    release_memory()
    model = METHODS[plan.settings.method.kind](
        load_model(given.base, training_dtype(given.recipe.model.dtype), torch.device("cpu")),
        plan.settings.method,
    )
    weights = trainable_weights(model)
    with torch.no_grad():
        for name, exact in load_weights(run / "checkpoints", step).items():
            weights[name].copy_(exact)
    return model


CAUSAL_LM_TRAINER = Trainer(tokenize_splits, _build, _save, _before_first_step)
