"""The trainer of causal language models: token audit, model, forecast, artifact."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from burnish.core.atomic import write_json
from burnish.core.errors import AuditFailed, BadData
from burnish.core.progress import say
from burnish.core.recipe.recipe import Recipe
from burnish.core.records import Row
from burnish.core.runs import Run
from burnish.models.artifact import Artifact, save_artifact
from burnish.models.chat_template import TokenizedRow, encode_row
from burnish.models.load import default_device
from burnish.models.local_models import LocalModel
from burnish.models.token_audit import audit
from burnish.train.adapters.adapted_model import AdaptedModel
from burnish.train.adapters.registry import language_model, soft_prompt_ids, trainable_weights
from burnish.train.batching.examples import Example, all_answers
from burnish.train.batching.micro_batches import trim_to_target
from burnish.train.batching.sampler import count_steps, group_rows
from burnish.train.distributed.process_group import SINGLE, ProcessGroup
from burnish.train.forecast.forecast import check_fits, forecast
from burnish.train.forecast.probe import probe
from burnish.train.forecast.speed_hints import speed_hints
from burnish.train.forward.path import forward_path, report_forward_path
from burnish.train.kernels.compile import compile_seconds
from burnish.train.loop.checkpoint import TrainState, load_weights
from burnish.train.loop.language_model import LanguageModelModule, Objective
from burnish.train.loop.peak_memory import release_memory, reset_peak
from burnish.train.loop.trainer import Trainer
from burnish.train.objectives.registry import OBJECTIVES
from burnish.train.trainers.trainable_model import (
    load_adapted_model,
    load_trainable_model,
    make_optimizer,
)


def objective_of(recipe: Recipe) -> Objective:
    """Build the objective of the recipe. Raises BadRecipe."""
    return OBJECTIVES[recipe.train.objective.kind](recipe.train.objective)


def tokenize_rows(
    rows: tuple[Row, ...], tokenizer: PreTrainedTokenizerBase, recipe: Recipe
) -> list[Example]:
    """Return the rows as examples, after the token audit.

    Raises AuditFailed, and BadData for rows that the objective can't learn from.
    """
    objective = objective_of(recipe)
    check_token_audit([objective.audit_row(row) for row in rows], tokenizer, recipe)
    virtual_tokens = soft_prompt_ids(recipe.train.method)

    def encode(row: Row) -> TokenizedRow:
        encoded = trim_to_target(encode_row(tokenizer, row, recipe.train.max_length))
        return encoded.with_prefix(virtual_tokens)

    return objective.examples(rows, encode)


def check_token_audit(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, recipe: Recipe
) -> None:
    """Raise AuditFailed if the token audit finds an error."""
    findings = audit(rows, tokenizer, recipe.train.max_length)
    if errors := [finding for finding in findings if finding.severity == "error"]:
        first = errors[0]
        more = f" (and {len(errors) - 1} more findings)" if len(errors) > 1 else ""
        raise AuditFailed(f"{first.summary}{more}", first.fix)


def build_language_model(
    recipe: Recipe,
    base: LocalModel,
    train_rows: list[Example],
    validation_rows: list[Example],
    process_group: ProcessGroup = SINGLE,
) -> LanguageModelModule:
    """Load the model and make its optimizer; the objective's stages haven't prepared it yet.

    Raises BadData without training rows.
    """
    if not train_rows:
        raise BadData("There are no training rows.", "Name a file with rows in data.train.")
    settings, objective = recipe.train, objective_of(recipe)
    if settings.threads or process_group.size > 1:
        share = max(torch.get_num_threads() // process_group.size, 1)
        torch.set_num_threads(settings.threads or share)
    answers = all_answers([*train_rows, *validation_rows])
    longest = max(len(answer.ids) for answer in answers)
    adapted = load_trainable_model(recipe, base, objective.stages, longest)
    model = adapted.model
    accelerator = Accelerator(cpu=default_device().type == "cpu")
    steps = count_steps(len(train_rows), settings)
    optimizer = make_optimizer(model, settings, steps, process_group)
    text_files = sum(file.stat().st_size for file in base.path.glob("*.json"))
    weights = sum(w.numel() * w.element_size() for w in trainable_weights(model).values())
    return LanguageModelModule(
        model=model,
        adapted=adapted,
        language=language_model(model),
        objective=objective,
        optimizer=optimizer,
        rows=train_rows,
        row_groups=group_rows(train_rows, settings),
        validation=validation_rows,
        settings=settings,
        accelerator=accelerator,
        process_group=process_group,
        artifact_bytes=weights + text_files,
    )


class CausalLMTrainer(Trainer[Example, LanguageModelModule]):
    """Trains causal language models, with every objective of `objectives.registry`."""

    def tokenize(self) -> tuple[list[Example], list[Example]]:
        """Return the training and the validation rows as examples. See `tokenize_rows`."""
        context, split = self.context, self.context.dataset.split
        return (
            tokenize_rows(split.train, context.tokenizer, context.recipe),
            tokenize_rows(split.validation, context.tokenizer, context.recipe),
        )

    def build(
        self, run: Run, train_rows: Sequence[Example], validation_rows: Sequence[Example]
    ) -> LanguageModelModule:
        """Load the model, make its optimizer, and let the objective's stages prepare the module."""
        context = self.context
        module = build_language_model(
            context.recipe,
            context.base,
            list(train_rows),
            list(validation_rows),
            context.process_group,
        )
        if context.process_group.is_main:
            report_forward_path(module.language, context.base.name)
            run.events.write(event="forward_path", **forward_path(module.language).describe())
        for stage in module.objective.stages:
            module = stage.prepare(module, context, run)
        return module

    def before_first_step(
        self, module: LanguageModelModule, run: Run, state: TrainState
    ) -> LanguageModelModule:
        """Forecast a run that hasn't begun, then let the objective's stages complete the module.

        Raises DoesNotFit.
        """
        reset_peak()
        if not state.step:
            _forecast(module, run)
        for stage in module.objective.stages:
            module = stage.before_first_step(module, run, state)
        return module

    def save(
        self, folder: Path, module: LanguageModelModule, lineage: Mapping[str, Any]
    ) -> Artifact:
        """Write the adapter, or the whole model if all of its weights were trained."""
        context, adapted = self.context, module.adapted
        if module.settings.shards_weights:
            adapted = self._load_unsharded(folder.parent, lineage["step"])
        for stage in module.objective.stages:
            stage.before_save(adapted.model)
        adapted.finalize()
        return save_artifact(folder, adapted.model, context.tokenizer, context.base, lineage)

    def _load_unsharded(self, run: Path, step: int) -> AdaptedModel:
        """Load the whole model with the weights of a checkpoint, on the main process."""
        release_memory()
        context = self.context
        adapted = load_adapted_model(context.recipe, context.base, torch.device("cpu"))
        weights = trainable_weights(adapted.model)
        with torch.no_grad():
            for name, exact in load_weights(run / "checkpoints", step).items():
                weights[name].copy_(exact)
        return adapted


def _forecast(module: LanguageModelModule, run: Run) -> None:
    """Write the forecast to the run, print hints for a faster one. Raises DoesNotFit."""
    measurements = probe(module, run.path)
    if module.settings.compile:
        say(f"Compiling the layers took {compile_seconds():.0f} s.")
    expected = forecast(module, measurements)
    if module.process_group.is_main:
        write_json(run.path / "forecast.json", expected.as_list())
        check_fits(measurements, expected, run.path)
        for hint in speed_hints(module, expected):
            say(hint)
