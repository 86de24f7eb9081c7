"""Several adapters of one base, trained at the same time: `burnish train A --together B`.

Each has its own rows, objective, optimizer and run, and ends in the weights that it would have
alone; they share the base in memory and the pass through it (`multi_lora.layers`). They save their
checkpoints after the same steps, so that all resume from the same one after a crash.
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
from burnish.core.recipe.recipe import Recipe
from burnish.core.recipe.support import allowed, conflicts
from burnish.core.runs import Run, new_run
from burnish.data.load import load
from burnish.models.artifact import save_artifact
from burnish.models.local_models import Resolved
from burnish.train.loop.checkpoint import TrainState, load_weights, step_of
from burnish.train.loop.context import TrainContext
from burnish.train.loop.loop import apply_step, save_and_prune
from burnish.train.loop.peak_memory import reset_peak
from burnish.train.loop.resume import reopen_run, roll_back
from burnish.train.multi_lora.forecast import forecast_together
from burnish.train.multi_lora.member import (
    LoraMember,
    SingleAdapter,
    build_members,
    joint_training_step,
)
from burnish.train.report import TrainReport, make_report
from burnish.train.run import make_lineage
from burnish.train.trainers.causal_lm import CausalLMTrainer


@dataclass(slots=True)
class _RunningMember:
    """A member with its run and its state."""

    module: LoraMember
    context: TrainContext
    run: Run
    state: TrainState


def train_together(recipes: dict[str, Recipe], out: Path) -> list[TrainReport]:
    """Train one adapter for each recipe, in the folder of its name in `out`; resume the runs that
    were begun there.

    Raises BadRecipe if the recipes can't be trained together, and what `train` raises.
    """
    check_trainable_together(recipes)
    with ExitStack() as locks:
        members = _start_members(recipes, out, locks)
        _resume(members)
        for member in members:
            member.run.events.write(
                event="training", from_step=member.state.step, steps=member.module.steps
            )
        if not any(member.state.step for member in members):
            reset_peak()
            forecast_together([(member.module, member.run.path) for member in members])
        _fit(members)
        return [_finish(member) for member in members]


def check_trainable_together(recipes: dict[str, Recipe]) -> None:
    """Raise BadRecipe unless all are adapters of the same base that one pass can train."""
    first = next(iter(recipes.values()))
    for name, recipe in recipes.items():
        train = recipe.train
        obstacles = [
            found.value if found.other == "flag" else f"train.{found.other}={found.value}"
            for found in conflicts({**train.choices, "run": ("together",)})
        ]
        obstacles += [
            what
            for what, applies in (
                ("another model", recipe.model != first.model),
                ("keep_checkpoints under 2", train.keep_checkpoints < 2),
                (
                    "another gradient_checkpointing",
                    train.gradient_checkpointing != first.train.gradient_checkpointing,
                ),
                ("other threads", train.threads != first.train.threads),
            )
            if applies
        ]
        if obstacles:
            raise BadRecipe(
                f"{name} has {', '.join(obstacles)} and can't be trained together with the others.",
                "Adapters of one model train together: train.method=lora without dropout, and "
                f"train.objective {', '.join(allowed('run', 'together', 'objective'))}. "
                "Train it alone: burnish train.",
            )


def _start_members(recipes: dict[str, Recipe], out: Path, locks: ExitStack) -> list[_RunningMember]:
    """Tokenize the rows of all members and create or reopen their runs."""
    base = Resolved.of(next(iter(recipes.values()))).base
    inputs = {}
    for name, recipe in recipes.items():
        context = TrainContext.create(recipe, load(recipe), base)
        inputs[name] = (context, *CausalLMTrainer(context).tokenize())
    runs = {name: _open_run(out / name, context) for name, (context, _, _) in inputs.items()}
    for run in runs.values():
        locks.enter_context(run.lock())
    modules = build_members(list(inputs.values()))
    return [
        _RunningMember(module, context, run, TrainState())
        for module, (context, _, _), run in zip(
            modules, inputs.values(), runs.values(), strict=True
        )
    ]


def _open_run(folder: Path, context: TrainContext) -> Run:
    inputs: dict[str, Any] = {"data": dict(context.dataset.hashes), "base": context.base.identity}
    if (folder / "inputs.json").exists():
        return reopen_run(folder, context.recipe, inputs)
    return new_run("train", context.recipe, inputs, folder)


def _resume(members: Sequence[_RunningMember]) -> None:
    """Go back to the last step of which all members have a whole checkpoint."""
    while True:
        checkpoints = [roll_back(member.run, member.module) for member in members]
        steps = [checkpoint[0].step if checkpoint else 0 for checkpoint in checkpoints]
        # A member that has ended has no later checkpoint to resume from.
        unfinished = [
            step
            for member, step, checkpoint in zip(members, steps, checkpoints, strict=True)
            if not (checkpoint and _has_ended(member.module, checkpoint[0]))
        ]
        common = min(unfinished, default=max(steps))
        newer = [
            path
            for member, step in zip(members, steps, strict=True)
            if step > common
            for path in (member.run.path / "checkpoints").glob("step-*")
            if step_of(path) > common
        ]
        if not newer:
            break
        for path in newer:
            shutil.rmtree(path)
    for member, checkpoint in zip(members, checkpoints, strict=True):
        if checkpoint:
            member.state = checkpoint[0]
            member.module.optimizer.restore(checkpoint[1])
    if common:
        say(f"Resuming after step {common}")


def _fit(members: Sequence[_RunningMember]) -> None:
    """Train all members to their ends."""
    total = max(member.module.steps for member in members)
    with progress("Fine-tuning together", total=total) as bar:
        bar.advance(max(member.state.step for member in members))
        while unfinished := [member for member in members if not _is_done(member)]:
            _run_step(unfinished, bar)


def _has_ended(module: LoraMember, state: TrainState) -> bool:
    return bool(state.stopped) or state.step >= module.steps


def _is_done(member: _RunningMember) -> bool:
    if member.state.step >= member.module.steps and not member.state.stopped:
        member.state.stopped = "all steps done"
    return bool(member.state.stopped)


def _run_step(members: Sequence[_RunningMember], bar: Bar) -> None:
    """Do one step of every member; save a checkpoint of all of them if one of them is due."""
    begun = time.perf_counter()
    results = joint_training_step([(member.module, member.state.step) for member in members])
    saved = [
        apply_step(member.module, member.run, member.state, result, begun, bar)
        for member, result in zip(members, results, strict=True)
    ]
    for member, is_saved in zip(members, saved, strict=True):
        if any(saved) and not is_saved:
            save_and_prune(member.module, member.run, member.state)


def _finish(member: _RunningMember) -> TrainReport:
    """Write the artifact and the report of a member that is done."""
    module, context, run, state = member.module, member.context, member.run, member.state
    module.optimizer.set_weights(load_weights(run.path / "checkpoints", state.best_step))
    adapter = SingleAdapter(module.model, module.name)
    lineage = make_lineage(run, context, state)
    save_artifact(run.artifact, adapter, context.tokenizer, context.base, lineage)
    report = make_report(run, module, state)
    write_json(run.path / "report.json", report.as_dict())
    run.events.write(event="trained", steps=state.step, stopped=state.stopped)
    return report
