"""`burnish train`, top to bottom."""

import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import AuditFailed, BadData, BadRecipe
from burnish.core.folders import hash_file, write_json
from burnish.core.journal import read_journal, rewrite_journal
from burnish.core.progress import say
from burnish.core.recipe import Recipe
from burnish.core.records import Row
from burnish.core.reinforcement import FileReward, Grpo
from burnish.core.runs import Run, new_run
from burnish.core.settings import follows
from burnish.core.training import Custom, Train
from burnish.data.load import Dataset, load
from burnish.models.artifact import Artifact, save_artifact
from burnish.models.audit import audit
from burnish.models.chat import encode_row
from burnish.models.load import device, load_model, load_tokenizer, training_dtype
from burnish.models.local import LocalModel, find_model
from burnish.train.adapters import (
    METHODS,
    language_model,
    quantization,
    settle,
    tokens_before,
    trainable,
)
from burnish.train.attention import ATTENTION
from burnish.train.auto import settled
from burnish.train.batches import count_steps, trimmed
from burnish.train.checkpoint import State, last_checkpoint, load_weights
from burnish.train.course import Course, Given
from burnish.train.drawing import with_drawing
from burnish.train.encoders import ENCODERS
from burnish.train.estimate import told
from burnish.train.examples import Example
from burnish.train.faults import explained
from burnish.train.forecast import forecast, probe, refuse_what_does_not_fit
from burnish.train.fsdp import DividedAdamW, divide
from burnish.train.imitation import add_matrix, drop_matrix, with_imitation
from burnish.train.layers import fuse
from burnish.train.lessons import with_lessons
from burnish.train.loop import Fit, Plan, Watch, fit
from burnish.train.memory import reset_peak
from burnish.train.objectives import OBJECTIVES
from burnish.train.on_policy import with_own_answers
from burnish.train.optimizer import MasterAdamW
from burnish.train.processes import gathered, joined, refuse_idle_processes
from burnish.train.quantization_aware import compute_rounded
from burnish.train.reference import with_reference
from burnish.train.report import TrainReport, report_of
from burnish.train.sharding import SharedAdamW
from burnish.train.team import ALONE, Team
from burnish.train.tracker import open_tracker


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
    recipe = settled(recipe, begun=Run(resume.absolute()).recipe if resume else None)
    own = recipe.train.objective
    dataset = dataset or load(recipe, answered=not isinstance(own, Grpo))
    base = find_model(recipe.model.name)
    given = Given(recipe, dataset, base, load_tokenizer(base))
    rows, validation = _course(recipe).examples(given)
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
        _course(recipe).save(run.artifact, plan, given, lineage_of(run, dataset, state))
        report = report_of(run, plan, state)
        write_json(run.path / "report.json", report.as_dict())
        run.events.write(event="trained", steps=state.step, stopped=state.stopped)
        return team.share(report)


def follow(team: Team) -> TrainReport:
    """Train as one of a team that another process leads, which alone writes files."""
    recipe, dataset, run, rows, validation = team.share(_NOTHING)
    base = find_model(recipe.model.name)
    team = replace(team, mode=recipe.train.parallel)
    given = Given(recipe, dataset, base, load_tokenizer(base), team)
    _fitted(given, run, (rows, validation))
    report: TrainReport = team.share(_NOTHING)
    return report


def _follow_launched(recipe: Recipe) -> TrainReport:
    with joined(recipe.train) as team:
        return follow(team)


def _course(recipe: Recipe) -> Course:
    return ENCODERS.get(recipe.train.objective.kind, _LANGUAGE)


def _fitted(
    given: Given, run: Run, rows: tuple[Sequence[Any], Sequence[Any]], watch: Watch | None = None
) -> tuple[Plan, State]:
    """Train from where the run stands; the plan's model then has the best weights."""
    course, team = _course(given.recipe), given.team
    seed_everything(given.recipe.train.seed)
    plan = replace(course.prepare(given, run, *rows), team=team, watch=watch)
    state = _resumed(run, plan) or State()
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


def encoded(
    rows: tuple[Row, ...], tokenizer: PreTrainedTokenizerBase, recipe: Recipe
) -> list[Example]:
    """Rows as tokens, after the token audit. Raises AuditFailed: the audit is a hard stop.

    Raises BadData for rows that aren't what the objective learns from.
    """
    objective = OBJECTIVES[recipe.train.objective.kind](recipe.train.objective)
    findings = audit([objective.audited(row) for row in rows], tokenizer, recipe.train.max_length)
    if errors := [finding for finding in findings if finding.severity == "error"]:
        first = errors[0]
        more = f" (and {len(errors) - 1} more findings)" if len(errors) > 1 else ""
        shown = ", ".join(str(row) for row in first.rows[:5])
        raise AuditFailed(f"{first.file}, rows {shown}: {first.message}{more}", first.fix)
    before = tokens_before(recipe.train.method)
    return objective.examples(
        rows,
        lambda row: trimmed(encode_row(tokenizer, row, recipe.train.max_length)).behind(before),
    )


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
    if not state.step and plan.team.size == 1:
        seen = probe(plan, run.path)
        expected = forecast(plan, seen)
        write_json(run.path / "forecast.json", expected.as_list())
        refuse_what_does_not_fit(seen, expected, run.path)
    if plan.team.size > 1:
        reckoned = plan.settings.model_copy(update={"devices": plan.team.size})
        say(told(given.base, reckoned, given.recipe.model.dtype))
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
    model = METHODS[plan.settings.method.kind](
        load_model(given.base, training_dtype(given.recipe.model.dtype), torch.device("cpu")),
        plan.settings.method,
    )
    weights = trainable(model)
    with torch.no_grad():
        for name, exact in load_weights(run / "checkpoints", step).items():
            weights[name].copy_(exact)
    return model


#: What a process has to tell that only listens.
_NOTHING: Any = None

_LANGUAGE = Course(encoded_splits, _prepared, _save, _rehearsed)


def seed_everything(seed: int) -> None:
    """Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


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


def same_run(folder: Path, recipe: Recipe, inputs: dict[str, Any]) -> Run:
    """The run to go on with. Raises BadData if what went into it has changed since it began."""
    run = Run(folder.absolute())
    before = run.read("inputs.json")
    same = {name: before.get(name) == given for name, given in inputs.items()}
    same["recipe"] = _alike(run.recipe) == _alike(recipe)
    for name, is_same in same.items():
        if not is_same:
            raise BadData(
                f"The {name} of {run.id} has changed since the run began.",
                "Put back what it began with, or start a new run.",
            )
    return run


def _alike(recipe: Recipe) -> tuple[Any, Any]:
    """What must stay as it was; how many processes share the work may change."""
    train = recipe.train.model_dump(exclude={"parallel", "devices", "threads"})
    return train, recipe.model


def _resumed(run: Run, plan: Plan) -> State | None:
    """Go back to the last whole checkpoint; forget what was half-written or measured after it."""
    state, tensors = (cleared(run, plan) if plan.team.leads else None) or (None, {})
    state = plan.team.share(state)
    if state is None:
        return None
    plan.optimizer.restore(tensors)
    say(f"Going on with {run.id} after step {state.step} of {plan.steps}")
    return state


def cleared(run: Run, plan: Plan) -> tuple[State, dict[str, torch.Tensor]] | None:
    """The run's last whole checkpoint, with all that came after it removed."""
    for draft in [*run.path.glob(".*"), *run.path.glob("checkpoints/.*")]:
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink()
    found = last_checkpoint(run.path / "checkpoints")
    step = found[0].step if found else 0
    metrics = run.path / "metrics.jsonl"
    kept = [entry for entry in read_journal(metrics) if entry["step"] <= step]
    rewrite_journal(metrics, kept)
    if isinstance(plan, Fit) and plan.drawing:
        plan.drawing.resume(step)
    return found


def lineage_of(run: Run, dataset: Dataset, state: State) -> dict[str, Any]:
    """Where the artifact came from."""
    return {
        "system": dataset.task.prompt,
        "task": dataset.task.model_dump(mode="json"),
        "data": dict(dataset.hashes),
        "recipe": run.recipe.model_dump(mode="json"),
        "versions": run.read("inputs.json")["versions"],
        "quantized": quantization(run.recipe.train.method),
        "rounded": run.recipe.train.quantization_aware,
        "step": state.best_step,
        "run": run.id,
    }
