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
from burnish.core.recipe.objectives import Custom, Grpo
from burnish.core.recipe.recipe import Recipe
from burnish.core.recipe.rewards import FileReward
from burnish.core.runs import Run, new_run
from burnish.core.settings import follows
from burnish.data.load import Dataset, load
from burnish.evaluate.tasks import thought_length
from burnish.models.chat_template import encode_prompt
from burnish.models.load import slow_format
from burnish.models.local_models import find_model
from burnish.train.adapters.registry import quantization
from burnish.train.distributed.launch import gathered, joined, refuse_idle_processes
from burnish.train.distributed.process_group import Team
from burnish.train.forecast.auto_method import settled
from burnish.train.loop.checkpoint import State, load_weights
from burnish.train.loop.loop import Plan, Watch, fit
from burnish.train.loop.peak_memory import peak_memory
from burnish.train.loop.resource_errors import explained
from burnish.train.loop.resume import resumed, same_run
from burnish.train.loop.trackers import open_tracker
from burnish.train.loop.trainer import Given
from burnish.train.registry import course_of, refuse_misfit
from burnish.train.report import TrainReport, report_of
from burnish.train.trainers.causal_lm import seed_everything


def train(
    recipe: Recipe,
    dataset: Dataset | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    watch: Watch | None = None,
) -> TrainReport:
    """Fine-tune one model; leave in the run folder all that is needed to use it or to repeat it.

    Raises AuditFailed or DoesNotFit before a weight moves, TrainingStopped when the machine gives
    out on the way; then `resume` names the run's folder and training goes on from its last
    checkpoint, to the same weights. Raises Busy while another process trains the same run.
    """
    refuse_idle_processes(recipe.train)
    if follows():
        return _follow_launched(recipe)
    base = find_model(recipe.model.name)
    refuse_misfit(recipe, base)
    recipe = settled(recipe, begun=Run(resume.absolute()).recipe if resume else None)
    if note := slow_format(recipe.model.dtype):
        say(note)
    own = recipe.train.objective
    dataset = dataset or load(recipe, answered=recipe.train.learns_answers)
    given = Given.of(recipe, dataset, base)
    course = course_of(recipe, base)
    rows, validation = course.examples(given)
    inputs: dict[str, Any] = {"data": dict(dataset.hashes), "base": base.identity}
    code = code_of(own)
    inputs |= {name: hash_file(file) for name, file in code.items()}
    run = same_run(resume, recipe, inputs) if resume else new_run("train", recipe, inputs, out)

    for name, file in code.items():
        shutil.copyfile(file, run.path / f"{name}.py")
    then = f"burnish train --resume {run.id}"
    with run.held(), explained(f"then: {then}"), gathered(recipe.train, then) as team:
        team.share((recipe, dataset, run, rows, validation))
        plan, state = _fitted(replace(given, team=team), run, (rows, validation), watch)
        course.save(run.artifact, plan, given, lineage_of(run, given, state))
        report = report_of(run, plan, state)
        write_json(run.path / "report.json", report.as_dict())
        run.events.write(event="trained", steps=state.step, stopped=state.stopped)
        return team.share(report)


#: What a process has to tell that only listens.
_NOTHING: Any = None


def follow(team: Team) -> TrainReport:
    """Train as one of a team that another process leads, which alone writes files."""
    recipe, dataset, run, rows, validation = team.share(_NOTHING)
    base = find_model(recipe.model.name)
    team = replace(team, mode=recipe.train.parallel)
    given = Given.of(recipe, dataset, base, team)
    _fitted(given, run, (rows, validation))
    team.gather(peak_memory())
    report: TrainReport = team.share(_NOTHING)
    return report


def _follow_launched(recipe: Recipe) -> TrainReport:
    with joined(recipe.train) as team:
        return follow(team)


def _fitted(
    given: Given, run: Run, rows: tuple[Sequence[Any], Sequence[Any]], watch: Watch | None = None
) -> tuple[Plan, State]:
    """Train from where the run stands; the plan's model then has the best weights."""
    course, team = course_of(given.recipe, given.base), given.team
    seed_everything(given.recipe.train.seed)
    plan = replace(course.prepare(given, run, *rows), team=team, watch=watch)
    state = resumed(run, plan) or State()
    plan = course.ready(plan, given, run, state)
    if team.leads:
        run.events.write(event="training", from_step=state.step, steps=plan.steps)
    with _tracked(plan, run, state) as followed:
        state = fit(followed, run, state)
    best = load_weights(run.path / "checkpoints", state.best_step) if team.leads else {}
    plan.optimizer.take(best)
    return plan, state


def train_in(
    folder: Path, recipe: Recipe, dataset: Dataset | None = None, watch: Watch | None = None
) -> TrainReport:
    """Train in this folder: go on if a run was begun there, else begin one.

    What was left by a death while the folder was being made is cleared away.
    """
    if (folder / "inputs.json").exists():
        return train(recipe, dataset, resume=folder, watch=watch)
    shutil.rmtree(folder, ignore_errors=True)
    return train(recipe, dataset, out=folder, watch=watch)


def code_of(objective: object) -> dict[str, Path]:
    """The operator's own Python that a training runs, by the name that its run keeps it under.

    Raises BadRecipe if it isn't there.
    """
    found = {}
    if isinstance(objective, Custom):
        found["loss"] = objective.file
    if isinstance(objective, Grpo) and isinstance(objective.reward, FileReward):
        found["reward"] = objective.reward.file
    for file in found.values():
        if not file.is_file():
            raise BadRecipe(f"There is no file {file}.", "Correct it in train.objective.")
    return found


@contextmanager
def _tracked(plan: Plan, run: Run, state: State) -> Iterator[Plan]:
    """The plan with the tracker that the recipe names, which is closed at the end."""
    if plan.settings.tracker is None or not plan.team.leads:
        yield plan
        return
    log, close = open_tracker(plan.settings.tracker, run, state.step)
    try:
        yield replace(plan, log=log)
    finally:
        close()


def lineage_of(run: Run, given: Given, state: State) -> dict[str, Any]:
    """Where the artifact came from."""
    dataset = given.dataset
    return {
        "system": dataset.task.prompt,
        "task": dataset.task.model_dump(mode="json"),
        "thoughts": thought_length(
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
