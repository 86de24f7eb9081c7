"""Several adapters of one base, trained at the same time: `burnish train A --together B`.

Each has rows, an objective, an optimizer and a run of its own, and ends where it would have ended
alone; what they share is the base in memory and the pass through it (train.joint). They keep their
checkpoints after the same steps, so that all go on from the same one after a death.
"""

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.core.atomic import write_json
from burnish.core.errors import BadRecipe
from burnish.core.progress import Bar, progress, say
from burnish.core.recipe.methods import Lora
from burnish.core.recipe.recipe import Recipe
from burnish.core.runs import Run, new_run
from burnish.data.load import load
from burnish.models.artifact import save_artifact
from burnish.models.local_models import find_model
from burnish.train.loop.checkpoint import TrainState, load_weights, step_of
from burnish.train.loop.loop import apply_step, save_and_prune
from burnish.train.loop.peak_memory import reset_peak
from burnish.train.loop.resume import reopen_run, roll_back
from burnish.train.loop.trainer import TrainContext
from burnish.train.multi_lora.forecast import forecast_together
from burnish.train.multi_lora.member import (
    LoraMember,
    SingleAdapter,
    build_members,
    joint_training_step,
)
from burnish.train.report import TrainReport, make_report
from burnish.train.run import make_lineage
from burnish.train.trainers.causal_lm import tokenize_splits

#: Objectives whose steps need nothing but their rows: no reference, no teacher, no drawing.
SUPPORTED_OBJECTIVES = ("sft", "orpo", "simpo")


@dataclass(slots=True)
class _RunningMember:
    """A member with its run and where it stands."""

    plan: LoraMember
    given: TrainContext
    run: Run
    state: TrainState


def train_together(recipes: dict[str, Recipe], out: Path) -> list[TrainReport]:
    """Train one adapter a recipe, each in the folder of its name in `out`; go on with what was
    begun there.

    Raises BadRecipe if the recipes can't be trained together, and what `train` raises.
    """
    check_trainable_together(recipes)
    with ExitStack() as held:
        going = _start_members(recipes, out, held)
        _resume(going)
        for one in going:
            one.run.events.write(event="training", from_step=one.state.step, steps=one.plan.steps)
        if not any(one.state.step for one in going):
            reset_peak()
            forecast_together([(one.plan, one.run.path) for one in going])
        _fit(going)
        return [_finish(one) for one in going]


def check_trainable_together(recipes: dict[str, Recipe]) -> None:
    """Raise BadRecipe unless all are adapters on the same base that one pass can train."""
    first = next(iter(recipes.values()))
    for name, recipe in recipes.items():
        train = recipe.train
        wrong = [
            what
            for what, holds in (
                ("another model", recipe.model != first.model),
                (f"train.method={train.method.kind}", not isinstance(train.method, Lora)),
                (
                    f"train.objective={train.objective.kind}",
                    train.objective.kind not in SUPPORTED_OBJECTIVES,
                ),
                ("dropout", getattr(train.method, "dropout", 0) > 0),
                ("init=pissa, start or on", not _begins_at_zero(train.method)),
                ("train.parallel", train.parallel != "none"),
                ("train.tracker", train.tracker is not None),
                ("train.compile", train.compile),
                ("keep_checkpoints under 2", train.keep_checkpoints < 2),
                (
                    "another gradient_checkpointing",
                    train.gradient_checkpointing != first.train.gradient_checkpointing,
                ),
                ("other threads", train.threads != first.train.threads),
            )
            if holds
        ]
        if wrong:
            raise BadRecipe(
                f"{name} has {', '.join(wrong)} and can't be trained together with the others.",
                "Together go adapters on one model: train.method=lora without dropout, and "
                f"train.objective {', '.join(SUPPORTED_OBJECTIVES)}. "
                "Train it by itself: burnish train.",
            )


def _begins_at_zero(method: Any) -> bool:
    return not isinstance(method, Lora) or (
        method.init == "zero" and not (method.init_from or method.stack_on)
    )


def _start_members(recipes: dict[str, Recipe], out: Path, held: ExitStack) -> list[_RunningMember]:
    """All members, their rows read and their runs made or found again."""
    base = find_model(next(iter(recipes.values())).model.name)
    read = {}
    for name, recipe in recipes.items():
        given = TrainContext.create(recipe, load(recipe), base)
        read[name] = (given, *tokenize_splits(given))
    runs = {name: _open_run(out / name, given) for name, (given, _, _) in read.items()}
    for run in runs.values():
        held.enter_context(run.lock())
    members = build_members(list(read.values()))
    return [
        _RunningMember(plan, given, run, TrainState())
        for plan, (given, _, _), run in zip(members, read.values(), runs.values(), strict=True)
    ]


def _open_run(folder: Path, given: TrainContext) -> Run:
    inputs: dict[str, Any] = {"data": dict(given.dataset.hashes), "base": given.base.identity}
    if (folder / "inputs.json").exists():
        return reopen_run(folder, given.recipe, inputs)
    return new_run("train", given.recipe, inputs, folder)


def _resume(going: Sequence[_RunningMember]) -> None:
    """Go back to the last step of which all members have a whole checkpoint."""
    while True:
        found = [roll_back(one.run, one.plan) for one in going]
        steps = [each[0].step if each else 0 for each in found]
        # A member that has ended has no later checkpoint to go on from.
        learning = [
            step
            for one, step, each in zip(going, steps, found, strict=True)
            if not (each and _has_ended(one.plan, each[0]))
        ]
        least = min(learning, default=max(steps))
        newer = [
            path
            for one, step in zip(going, steps, strict=True)
            if step > least
            for path in (one.run.path / "checkpoints").glob("step-*")
            if step_of(path) > least
        ]
        if not newer:
            break
        for path in newer:
            shutil.rmtree(path)
    for one, each in zip(going, found, strict=True):
        if each:
            one.state = each[0]
            one.plan.optimizer.restore(each[1])
    if least:
        say(f"Going on after step {least}")


def _fit(going: Sequence[_RunningMember]) -> None:
    """Train all to their ends."""
    with progress("Fine-tuning together", total=max(one.plan.steps for one in going)) as bar:
        bar.advance(max(one.state.step for one in going))
        while learning := [one for one in going if not _is_done(one)]:
            _run_step(learning, bar)


def _has_ended(plan: LoraMember, state: TrainState) -> bool:
    return bool(state.stopped) or state.step >= plan.steps


def _is_done(one: _RunningMember) -> bool:
    if one.state.step >= one.plan.steps and not one.state.stopped:
        one.state.stopped = "all steps done"
    return bool(one.state.stopped)


def _run_step(learning: Sequence[_RunningMember], bar: Bar) -> None:
    """One step of every member that isn't done, and their checkpoints all or none."""
    begun = time.perf_counter()
    learnt = joint_training_step([(one.plan, one.state.step) for one in learning])
    kept = [
        apply_step(one.plan, one.run, one.state, found, begun, bar)
        for one, found in zip(learning, learnt, strict=True)
    ]
    for one, has in zip(learning, kept, strict=True):
        if any(kept) and not has:
            save_and_prune(one.plan, one.run, one.state)


def _finish(one: _RunningMember) -> TrainReport:
    """The artifact and the report of a member that is done."""
    plan, run = one.plan, one.run
    plan.optimizer.set_weights(load_weights(run.path / "checkpoints", one.state.best_step))
    lineage = make_lineage(run, one.given, one.state)
    save_artifact(
        run.artifact,
        SingleAdapter(plan.model, plan.name),
        one.given.tokenizer,
        one.given.base,
        lineage,
    )
    report = make_report(run, plan, one.state)
    write_json(run.path / "report.json", report.as_dict())
    run.events.write(event="trained", steps=one.state.step, stopped=one.state.stopped)
    return report
