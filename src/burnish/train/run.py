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
from burnish.core.training import Custom
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
from burnish.train.diagnosis import diagnose
from burnish.train.drawing import with_drawing
from burnish.train.encoders import ENCODERS
from burnish.train.examples import Example
from burnish.train.faults import explained
from burnish.train.forecast import forecast, probe, refuse_what_does_not_fit
from burnish.train.layers import fuse
from burnish.train.lessons import with_lessons
from burnish.train.loop import Fit, Plan, Watch, fit
from burnish.train.memory import peak_memory, reset_peak
from burnish.train.objectives import OBJECTIVES
from burnish.train.on_policy import with_own_answers
from burnish.train.optimizer import MasterAdamW
from burnish.train.reference import with_reference
from burnish.train.report import TrainReport
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
    recipe = settled(recipe, begun=Run(resume.absolute()).recipe if resume else None)
    own = recipe.train.objective
    dataset = dataset or load(recipe, answered=not isinstance(own, Grpo))
    base = find_model(recipe.model.name)
    given = Given(recipe, dataset, base, load_tokenizer(base))
    course = ENCODERS.get(recipe.train.objective.kind, _LANGUAGE)
    rows, validation = course.examples(given)
    inputs: dict[str, Any] = {"data": dict(dataset.hashes), "base": base.identity}
    code = code_of(own)
    inputs |= {name: hash_file(file) for name, file in code.items()}
    run = _same_run(resume, recipe, inputs) if resume else new_run("train", recipe, inputs, out)

    for name, file in code.items():
        shutil.copyfile(file, run.path / f"{name}.py")
    seed_everything(recipe.train.seed)
    with run.held(), explained(f"then: burnish train --resume {run.id}"):
        plan = replace(course.prepare(given, run, rows, validation), watch=watch)
        state = _resumed(run, plan) or State()
        plan = course.ready(plan, given, run, state)
        run.events.write(event="training", from_step=state.step, steps=plan.steps)
        with _tracked(plan, run, state) as followed:
            state = fit(followed, run, state)
        plan.optimizer.take(load_weights(run.path / "checkpoints", state.best_step))
        course.save(run.artifact, plan, given, _lineage(run, dataset, state))
        report = _report(run, plan, state)
        write_json(run.path / "report.json", report.as_dict())
        run.events.write(event="trained", steps=state.step, stopped=state.stopped)
    return report


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
    recipe: Recipe, base: LocalModel, rows: list[Example], validation: list[Example]
) -> Fit:
    """The model with its trainable weights marked, optimizer and objective: ready to fit."""
    if not rows:
        raise BadData("There are no training rows.", "Name a file with rows in data.train.")
    if recipe.train.threads:
        torch.set_num_threads(recipe.train.threads)
    settings = recipe.train
    model = METHODS[settings.method.kind](
        load_model(base, training_dtype(recipe.model.dtype)), settings.method
    )
    language = language_model(model)
    language.set_attn_implementation(ATTENTION)
    fuse(model)
    if settings.gradient_checkpointing:
        language.activation_checkpointing_enable({"use_reentrant": False})
    accelerator = Accelerator(cpu=device().type == "cpu")
    optimizer = MasterAdamW(trainable(model), settings, count_steps(len(rows), settings))
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
        artifact_bytes=weights + texts,
    )


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


def _encoded_splits(given: Given) -> tuple[list[Example], list[Example]]:
    split = given.dataset.split
    rows, validation = (
        encoded(part, given.tokenizer, given.recipe) for part in (split.train, split.validation)
    )
    return rows, validation


def _prepared(given: Given, run: Run, rows: Sequence[Any], validation: Sequence[Any]) -> Fit:
    plan = prepare(given.recipe, given.base, list(rows), list(validation))
    return with_drawing(plan, given.tokenizer, given.dataset.task, run)


def _rehearsed(plan: Fit, given: Given, run: Run, state: State) -> Fit:
    """The plan with what a teacher or the model itself says beforehand, and its forecast made.

    Raises DoesNotFit.
    """
    plan = with_own_answers(with_lessons(plan, given.tokenizer), given.tokenizer)
    reset_peak()
    if not state.step:
        seen = probe(plan, run.path)
        expected = forecast(plan, seen)
        write_json(run.path / "forecast.json", expected.as_list())
        refuse_what_does_not_fit(seen, expected, run.path)
    return with_reference(plan, run, state)


def _save(folder: Path, plan: Fit, given: Given, lineage: Mapping[str, Any]) -> Artifact:
    settle(plan.model)
    return save_artifact(folder, plan.model, given.tokenizer, given.base, lineage)


_LANGUAGE = Course(_encoded_splits, _prepared, _save, _rehearsed)


def seed_everything(seed: int) -> None:
    """Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def _tracked(plan: Plan, run: Run, state: State) -> Iterator[Plan]:
    """The plan with the tracker that the recipe names, which is closed at the end."""
    if plan.settings.tracker is None:
        yield plan
        return
    log, close = open_tracker(plan.settings.tracker, run, state.step)
    try:
        yield replace(plan, log=log)
    finally:
        close()


def _same_run(folder: Path, recipe: Recipe, inputs: dict[str, Any]) -> Run:
    """The run to go on with. Raises BadData if what went into it has changed since it began."""
    run = Run(folder.absolute())
    before = run.read("inputs.json")
    same = {name: before.get(name) == given for name, given in inputs.items()}
    same["recipe"] = run.recipe.train == recipe.train and run.recipe.model == recipe.model
    for name, is_same in same.items():
        if not is_same:
            raise BadData(
                f"The {name} of {run.id} has changed since the run began.",
                "Put back what it began with, or start a new run.",
            )
    return run


def _resumed(run: Run, plan: Plan) -> State | None:
    """Go back to the last whole checkpoint; forget what was half-written or measured after it."""
    for draft in [*run.path.glob(".*"), *run.path.glob("checkpoints/.*")]:
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink()
    found = last_checkpoint(run.path / "checkpoints")
    step = found[0].step if found else 0
    metrics = run.path / "metrics.jsonl"
    kept = [entry for entry in read_journal(metrics) if entry["step"] <= step]
    rewrite_journal(metrics, kept)
    if isinstance(plan, Fit) and plan.drawing:
        plan.drawing.resume(step)
    if found is None:
        return None
    plan.optimizer.restore(found[1])
    say(f"Going on with {run.id} after step {step} of {plan.steps}")
    return found[0]


def _lineage(run: Run, dataset: Dataset, state: State) -> dict[str, Any]:
    """Where the artifact came from."""
    return {
        "system": dataset.task.prompt,
        "task": dataset.task.model_dump(mode="json"),
        "data": dict(dataset.hashes),
        "recipe": run.recipe.model_dump(mode="json"),
        "versions": run.read("inputs.json")["versions"],
        "quantized": quantization(run.recipe.train.method),
        "step": state.best_step,
        "run": run.id,
    }


def _report(run: Run, plan: Plan, state: State) -> TrainReport:
    metrics = read_journal(run.path / "metrics.jsonl")
    peak, spent = peak_memory(), state.seconds + state.other_seconds
    disk = sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
    actual = {"peak memory": peak, "training time": spent, "disk": disk}
    return TrainReport(
        run=run.id,
        artifact=str(run.artifact),
        steps=state.step,
        epochs=round(state.step * plan.settings.batch_size / len(plan.rows), 2),
        stopped=state.stopped,
        train_seconds=spent,
        tokens_per_second=state.tokens / state.seconds if state.seconds else 0.0,
        peak_memory_bytes=peak,
        trained_parameters=sum(weight.numel() for weight in plan.optimizer.masters.values()),
        total_parameters=sum(weight.numel() for weight in plan.model.parameters()),
        best_validation_loss=state.best_loss if plan.validation else None,
        losses=[entry["loss"] for entry in metrics if "loss" in entry],
        diagnoses=diagnose(metrics, plan.settings),
        forecast=[
            {**quantity, "actual": actual[quantity["name"]]}
            for quantity in _foreseen(run, plan, state)
        ],
    )


def _foreseen(run: Run, plan: Plan, state: State) -> list[dict[str, Any]]:
    """The forecast; its time is that of the steps which were done, if the run stopped early."""
    share = state.step / plan.steps
    bounds = ("low", "expected", "high")
    return [
        {**found, **{bound: found[bound] * share for bound in bounds}}
        if found["unit"] == "seconds"
        else found
        for found in run.read_list("forecast.json")
    ]
