"""`burnish train`, top to bottom.

`examples/train_loop.py` does the same for LoRA SFT on one page, and ends in the same weights.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from burnish.core.atomic import hash_file, write_json
from burnish.core.errors import BadRecipe
from burnish.core.progress import say
from burnish.core.recipe.objectives import CustomLoss, Grpo
from burnish.core.recipe.recipe import Recipe
from burnish.core.recipe.rewards import FileReward
from burnish.core.runs import Run, new_run
from burnish.core.settings import is_worker
from burnish.data.load import Dataset, load
from burnish.evaluate.tasks import reasoning_length
from burnish.models.chat_template import encode_prompt
from burnish.models.load import slow_dtype_warning
from burnish.models.local_models import find_model
from burnish.train.adapters.registry import quantization
from burnish.train.distributed.launch import join_torchrun, launch, reject_idle_processes
from burnish.train.distributed.process_group import ProcessGroup
from burnish.train.forecast.auto_method import resolve_auto_method
from burnish.train.loop.checkpoint import TrainState, load_weights
from burnish.train.loop.loop import OnValidation, TrainingModule, fit
from burnish.train.loop.peak_memory import peak_memory
from burnish.train.loop.resource_errors import resource_errors
from burnish.train.loop.resume import reopen_run, resume
from burnish.train.loop.trackers import open_tracker
from burnish.train.loop.trainer import TrainContext
from burnish.train.registry import check_supported, trainer_for
from burnish.train.report import TrainReport, make_report
from burnish.train.trainers.causal_lm import seed_everything


def train(
    recipe: Recipe,
    dataset: Dataset | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    on_validation: OnValidation | None = None,
) -> TrainReport:
    """Fine-tune one model; leave in the run folder all that is needed to use it or to repeat it.

    Raises AuditFailed or DoesNotFit before a weight moves, TrainingStopped when the machine gives
    out on the way; then `resume` names the run's folder and training goes on from its last
    checkpoint, to the same weights. Raises Busy while another process trains the same run.
    """
    reject_idle_processes(recipe.train)
    if is_worker():
        return _join_torchrun(recipe)
    base = find_model(recipe.model.name)
    check_supported(recipe, base)
    recipe = resolve_auto_method(recipe, begun=Run(resume.absolute()).recipe if resume else None)
    if note := slow_dtype_warning(recipe.model.dtype):
        say(note)
    own = recipe.train.objective
    dataset = dataset or load(recipe, answered=recipe.train.needs_answers)
    given = TrainContext.create(recipe, dataset, base)
    course = trainer_for(recipe, base)
    rows, validation = course.tokenize(given)
    inputs: dict[str, Any] = {"data": dict(dataset.hashes), "base": base.identity}
    code = user_code_files(own)
    inputs |= {name: hash_file(file) for name, file in code.items()}
    run = reopen_run(resume, recipe, inputs) if resume else new_run("train", recipe, inputs, out)

    for name, file in code.items():
        shutil.copyfile(file, run.path / f"{name}.py")
    then = f"burnish train --resume {run.id}"
    with run.lock(), resource_errors(f"then: {then}"), launch(recipe.train, then) as team:
        team.broadcast((recipe, dataset, run, rows, validation))
        plan, state = _train_to_best(
            replace(given, team=team), run, (rows, validation), on_validation
        )
        course.save(run.artifact, plan, given, make_lineage(run, given, state))
        report = make_report(run, plan, state)
        write_json(run.path / "report.json", report.as_dict())
        run.events.write(event="trained", steps=state.step, stopped=state.stopped)
        return team.broadcast(report)


#: What a process has to tell that only listens.
_NOTHING: Any = None


def train_as_worker(team: ProcessGroup) -> TrainReport:
    """Train as one of a team that another process leads, which alone writes files."""
    recipe, dataset, run, rows, validation = team.broadcast(_NOTHING)
    base = find_model(recipe.model.name)
    team = replace(team, mode=recipe.train.parallel)
    given = TrainContext.create(recipe, dataset, base, team)
    _train_to_best(given, run, (rows, validation))
    team.gather(peak_memory())
    report: TrainReport = team.broadcast(_NOTHING)
    return report


def _join_torchrun(recipe: Recipe) -> TrainReport:
    with join_torchrun(recipe.train) as team:
        return train_as_worker(team)


def _train_to_best(
    given: TrainContext,
    run: Run,
    rows: tuple[Sequence[Any], Sequence[Any]],
    on_validation: OnValidation | None = None,
) -> tuple[TrainingModule, TrainState]:
    """Train from where the run stands; the plan's model then has the best weights."""
    course, team = trainer_for(given.recipe, given.base), given.team
    seed_everything(given.recipe.train.seed)
    plan = replace(course.build(given, run, *rows), team=team, on_validation=on_validation)
    state = resume(run, plan) or TrainState()
    plan = course.before_first_step(plan, given, run, state)
    if team.is_main:
        run.events.write(event="training", from_step=state.step, steps=plan.steps)
    with _with_tracker(plan, run, state) as followed:
        state = fit(followed, run, state)
    best = load_weights(run.path / "checkpoints", state.best_step) if team.is_main else {}
    plan.optimizer.set_weights(best)
    return plan, state


def train_in(
    folder: Path,
    recipe: Recipe,
    dataset: Dataset | None = None,
    on_validation: OnValidation | None = None,
) -> TrainReport:
    """Train in this folder: go on if a run was begun there, else begin one.

    What was left by a death while the folder was being made is cleared away.
    """
    if (folder / "inputs.json").exists():
        return train(recipe, dataset, resume=folder, on_validation=on_validation)
    shutil.rmtree(folder, ignore_errors=True)
    return train(recipe, dataset, out=folder, on_validation=on_validation)


def user_code_files(objective: object) -> dict[str, Path]:
    """The operator's own Python that a training runs, by the name that its run keeps it under.

    Raises BadRecipe if it isn't there.
    """
    found = {}
    if isinstance(objective, CustomLoss):
        found["loss"] = objective.file
    if isinstance(objective, Grpo) and isinstance(objective.reward, FileReward):
        found["reward"] = objective.reward.file
    for file in found.values():
        if not file.is_file():
            raise BadRecipe(f"There is no file {file}.", "Correct it in train.objective.")
    return found


@contextmanager
def _with_tracker(plan: TrainingModule, run: Run, state: TrainState) -> Iterator[TrainingModule]:
    """The plan with the tracker that the recipe names, which is closed at the end."""
    if plan.settings.tracker is None or not plan.team.is_main:
        yield plan
        return
    log, close = open_tracker(plan.settings.tracker, run, state.step)
    try:
        yield replace(plan, log_metrics=log)
    finally:
        close()


def make_lineage(run: Run, given: TrainContext, state: TrainState) -> dict[str, Any]:
    """Where the artifact came from."""
    dataset = given.dataset
    return {
        "system": dataset.task.prompt,
        "task": dataset.task.model_dump(mode="json"),
        "thoughts": reasoning_length(
            dataset.split.train, lambda some: len(encode_prompt(given.tokenizer, some))
        ),
        "data": dict(dataset.hashes),
        "recipe": run.recipe.model_dump(mode="json"),
        "versions": run.read("inputs.json")["versions"],
        "quantized": quantization(run.recipe.train.method),
        "rounded": run.recipe.train.quantization_aware,
        "step": state.best_step,
        "run": run.id,
    }
