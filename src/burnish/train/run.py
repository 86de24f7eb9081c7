"""`burnish train`, from top to bottom.

`examples/train_loop.py` does the same for LoRA SFT on one page, and ends in the same weights.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from transformers import set_seed

from burnish.core.atomic import hash_file, write_json
from burnish.core.errors import BadRecipe
from burnish.core.progress import say
from burnish.core.recipe.objectives import CustomLoss, Grpo
from burnish.core.recipe.recipe import Recipe
from burnish.core.recipe.rewards import FileReward
from burnish.core.records import Message
from burnish.core.runs import Run, new_run
from burnish.core.settings import is_worker
from burnish.data.load import Dataset, load
from burnish.evaluate.tasks import reasoning_length
from burnish.models.chat_template import encode_prompt
from burnish.models.load import slow_dtype_warning
from burnish.models.local_models import Resolved
from burnish.train.adapters.registry import quantization
from burnish.train.distributed.launch import join_torchrun, launch, reject_idle_processes
from burnish.train.distributed.process_group import ProcessGroup
from burnish.train.forecast.auto_method import resolve_auto_method
from burnish.train.loop.checkpoint import TrainState, load_weights
from burnish.train.loop.context import TrainContext
from burnish.train.loop.loop import OnValidation, fit
from burnish.train.loop.peak_memory import peak_memory
from burnish.train.loop.resource_errors import resource_errors
from burnish.train.loop.resume import reopen_run, resume
from burnish.train.loop.trackers import open_tracker
from burnish.train.loop.trainer import ExampleT, ModuleT, Trainer
from burnish.train.registry import check_supported, trainer_for
from burnish.train.report import TrainReport, make_report


def train(
    recipe: Recipe,
    dataset: Dataset | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    on_validation: OnValidation | None = None,
) -> TrainReport:
    """Fine-tune one model; leave in the run folder all that is needed to use or to repeat it.

    Raises AuditFailed or DoesNotFit before the first step, TrainingStopped when memory or a process
    is lost on the way; with `resume`, the run's folder, training continues from the last checkpoint
    and ends in the same weights. Raises Busy while another process trains the same run.
    """
    reject_idle_processes(recipe.train)
    if is_worker():
        return _train_as_torchrun_worker(recipe)
    resolved = Resolved.of(recipe)
    base = resolved.base
    check_supported(recipe, base)
    recipe = resolve_auto_method(resolved, begun=Run(resume.absolute()).recipe if resume else None)
    if warning := slow_dtype_warning(recipe.model.dtype):
        say(warning)
    dataset = dataset or load(recipe, answered=recipe.train.needs_answers)
    context = TrainContext.create(recipe, dataset, base)
    train_rows, validation_rows = trainer_for(context).tokenize()
    code_files = user_code_files(recipe.train.objective)
    inputs: dict[str, Any] = {"data": dict(dataset.hashes), "base": base.identity}
    inputs |= {name: hash_file(file) for name, file in code_files.items()}
    run = reopen_run(resume, recipe, inputs) if resume else new_run("train", recipe, inputs, out)
    for name, file in code_files.items():
        shutil.copyfile(file, run.path / f"{name}.py")

    command = f"burnish train --resume {run.id}"
    with (
        run.lock(),
        resource_errors(f"then: {command}"),
        launch(recipe.train, command) as process_group,
    ):
        process_group.broadcast((recipe, dataset, run, train_rows, validation_rows))
        trainer = trainer_for(context.with_process_group(process_group))
        module, state = _train_to_best(trainer, run, train_rows, validation_rows, on_validation)
        trainer.save(run.artifact, module, make_lineage(run, context, state))
        report = make_report(run, module, state)
        write_json(run.path / "report.json", report.as_dict())
        run.events.write(event="trained", steps=state.step, stopped=state.stopped)
        return process_group.broadcast(report)


def train_as_worker(process_group: ProcessGroup) -> TrainReport:
    """Train as a worker of a process group, whose main process writes all files."""
    received: Any = process_group.broadcast(None)
    recipe, dataset, run, train_rows, validation_rows = received
    process_group = replace(process_group, mode=recipe.train.parallel)
    base = Resolved.of(recipe).base
    trainer = trainer_for(TrainContext.create(recipe, dataset, base, process_group))
    _train_to_best(trainer, run, train_rows, validation_rows)
    process_group.gather(peak_memory())
    report: Any = process_group.broadcast(None)
    return cast(TrainReport, report)


def _train_as_torchrun_worker(recipe: Recipe) -> TrainReport:
    with join_torchrun(recipe.train) as process_group:
        return train_as_worker(process_group)


def _train_to_best(
    trainer: Trainer[ExampleT, ModuleT],
    run: Run,
    train_rows: Sequence[ExampleT],
    validation_rows: Sequence[ExampleT],
    on_validation: OnValidation | None = None,
) -> tuple[ModuleT, TrainState]:
    """Train from the run's last checkpoint on; return the module with the best weights."""
    context = trainer.context
    set_seed(context.recipe.train.seed)
    module = trainer.build(run, train_rows, validation_rows)
    module = replace(module, process_group=context.process_group, on_validation=on_validation)
    state = resume(run, module) or TrainState()
    module = trainer.before_first_step(module, run, state)
    is_main = context.process_group.is_main
    if is_main:
        run.events.write(event="training", from_step=state.step, steps=module.steps)
    with _with_tracker(module, run, state) as tracked:
        state = fit(tracked, run, state)
    best = load_weights(run.path / "checkpoints", state.best_step) if is_main else {}
    module.optimizer.set_weights(best)
    return module, state


def train_in(
    folder: Path,
    recipe: Recipe,
    dataset: Dataset | None = None,
    on_validation: OnValidation | None = None,
) -> TrainReport:
    """Train in this folder: resume the run that was begun there, or begin one.

    A folder that was left half-made by a crash is cleared.
    """
    if (folder / "inputs.json").exists():
        return train(recipe, dataset, resume=folder, on_validation=on_validation)
    shutil.rmtree(folder, ignore_errors=True)
    return train(recipe, dataset, out=folder, on_validation=on_validation)


def user_code_files(objective: object) -> dict[str, Path]:
    """Return the user's Python files that a training runs, by their names in the run folder.

    Raises BadRecipe if one doesn't exist.
    """
    files = {}
    if isinstance(objective, CustomLoss):
        files["loss"] = objective.file
    if isinstance(objective, Grpo) and isinstance(objective.reward, FileReward):
        files["reward"] = objective.reward.file
    for file in files.values():
        if not file.is_file():
            raise BadRecipe(f"There is no file {file}.", "Fix the path in train.objective.")
    return files


@contextmanager
def _with_tracker(module: ModuleT, run: Run, state: TrainState) -> Iterator[ModuleT]:
    """Give the module the tracker that the recipe names; close it at the end."""
    if module.settings.tracker is None or not module.process_group.is_main:
        yield module
        return
    log_metrics, close = open_tracker(module.settings.tracker, run, state.step)
    try:
        yield replace(module, log_metrics=log_metrics)
    finally:
        close()


def make_lineage(run: Run, context: TrainContext, state: TrainState) -> dict[str, Any]:
    """Return the artifact's lineage: data, recipe, versions, run and step that it came from."""
    dataset, tokenizer = context.dataset, context.tokenizer

    def count_tokens(messages: Sequence[Message]) -> int:
        return len(encode_prompt(tokenizer, messages))

    return {
        "system": dataset.task.prompt,
        "task": dataset.task.model_dump(mode="json"),
        "thoughts": reasoning_length(dataset.split.train, count_tokens),
        "data": dict(dataset.hashes),
        "recipe": run.recipe.model_dump(mode="json"),
        "versions": run.read("inputs.json")["versions"],
        "quantized": quantization(run.recipe.train.method),
        "rounded": run.recipe.train.quantization_aware,
        "step": state.best_step,
        "run": run.id,
    }
