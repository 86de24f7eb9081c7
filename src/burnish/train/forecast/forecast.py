"""What a run will need, measured before it begins: a few real steps on this machine.

Rehearsed are the longest micro-batch (it sets the peak), half of it (which shows what a token
costs), two typical ones, an update at a learning rate of 0, one micro-batch of validation and one
checkpoint. Nothing of it changes the run: the weights stay what they are to the last bit, and the
random states are put back. Where several processes train, all of them rehearse at once, each the
whole of it, with what they send each other.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from burnish.core.errors import DoesNotFit
from burnish.core.progress import Bar, progress
from burnish.train.batching.examples import Example
from burnish.train.batching.packed import round_up_length
from burnish.train.batching.sampler import count_updates
from burnish.train.distributed.process_group import split_by_tokens
from burnish.train.forecast.memory_claims import (
    MemoryClaim,
    Quantity,
    first_shortage,
    gather_claims,
)
from burnish.train.forward.path import batches_of, count_tokens
from burnish.train.loop.checkpoint import LANDMARKS, TrainState, save_checkpoint
from burnish.train.loop.language_model import (
    LanguageModelModule,
    compute_validation_metrics,
    train_step,
)
from burnish.train.loop.peak_memory import current_memory, peak_memory, release_memory, reset_peak
from burnish.train.loop.resource_errors import resource_errors
from burnish.train.rlhf.reference import with_zero_reference

#: Steps whose micro-batches are looked at; longer runs are scaled up from them.
_LOOKED_AT = 200

#: What the peaks of all processes of a run sum up to is called.
TOTAL_PEAK_MEMORY = "peak memory of all processes"


@dataclass(frozen=True, slots=True)
class Forecast:
    """Peak memory of this process, time and disk of a run; and the peaks of all its processes,
    by rank, where there are several."""

    memory: Quantity
    time: Quantity
    disk: Quantity
    claims: Sequence[MemoryClaim]

    def as_list(self) -> list[dict[str, Any]]:
        """The shape in which reports carry it."""
        all_of_it = [self.memory, self.time, self.disk]
        if len(self.claims) > 1:
            low, expected, high = (
                sum(getattr(claim, bound) for claim in self.claims)
                for bound in ("low", "expected", "high")
            )
            all_of_it.insert(1, Quantity(TOTAL_PEAK_MEMORY, "bytes", low, expected, high))
        return [asdict(quantity) for quantity in all_of_it]


@dataclass(frozen=True, slots=True)
class Probe:
    """What the rehearsal showed. Bytes, tokens and seconds.

    `peak` is the memory with the longest micro-batch, of `tokens` computed tokens, `half_peak` that
    with half of its rows, and `resting` what stays between batches: weights, gradients, moments,
    compiled code, of which a batch of another length leaves `shape_bytes` more; the run has
    `shapes` lengths. `run_tokens` are the computed tokens of the whole run. `longest_row` has the
    tokens of all `answers` of a row together.
    """

    baseline: int
    peak: int
    tokens: int
    half_peak: int
    half_tokens: int
    shape_bytes: int
    shapes: int
    longest_row: int
    answers: int
    layers: int
    seconds_per_token: Sequence[float]
    update_seconds: float
    validation_seconds: float
    reference_seconds: float
    rollout_seconds: float
    checkpoint_seconds: float
    checkpoint_bytes: int
    run_tokens: float

    @property
    def run_peak(self) -> int:
        """The peak once all lengths have been met; two of them were rehearsed."""
        return self.peak + self.shape_bytes * max(self.shapes - 2, 0)

    @property
    def memory_line(self) -> tuple[float, float]:
        """(bytes whatever the batch, bytes a token more), through the two peaks."""
        if self.half_tokens >= self.tokens or self.half_peak >= self.peak:
            return self.baseline, max(self.peak - self.baseline, 1) / self.tokens
        a_token = (self.peak - self.half_peak) / (self.tokens - self.half_tokens)
        return max(self.peak - a_token * self.tokens, self.baseline), a_token


def probe(plan: LanguageModelModule, folder: Path) -> Probe:
    """Rehearse. Raises DoesNotFit when even that finds no memory or no disk."""
    plan = with_zero_reference(plan)
    random = torch.get_rng_state()
    looked = min(plan.steps, _LOOKED_AT)
    count = partial(count_tokens, plan.language)
    batches = first_batches(plan)
    longest = batches[-1]
    half = longest[: max(1, len(longest) // 2)]
    # What loading has freed (weights that are packed now) is no part of the run's peak.
    release_memory()
    reset_peak()
    then = "the run has not begun"
    try:
        with progress("Forecasting", total=6) as bar, resource_errors(then, DoesNotFit):
            _run_backward(plan, longest)
            peak = peak_memory()
            bar.advance()
            update = _measure_seconds(lambda: _update(plan))
            # The first micro-batch was computed before the optimizer had its moments.
            peak = max(peak + plan.optimizer.moment_bytes, peak_memory())
            release_memory()
            resting = current_memory()
            reset_peak()
            _run_backward(plan, half)
            half_peak = peak_memory()
            release_memory()
            shape = max(current_memory() - resting, 0)
            bar.advance()
            typical = (batches[int(share * len(batches))] for share in (0.25, 0.75))
            speeds = [_seconds_per_token(plan, some, bar) for some in typical]
            validation = _pass_seconds(plan, plan.validation) / plan.team.size
            measured = [*plan.rows, *plan.validation] if plan.objective.needs_reference else []
            reference = _pass_seconds(plan, measured)
            drawing = _rollout_seconds(plan)
            bar.advance()
            checkpoint, size = _time_checkpoint(plan, folder)
            bar.advance()
    finally:
        plan.optimizer.reset()
        torch.set_rng_state(random)
    return Probe(
        baseline=resting,
        peak=max(peak, peak_memory(), resting + int(_final_weights_bytes(plan))),
        tokens=count(longest),
        half_peak=half_peak,
        half_tokens=count(half),
        shape_bytes=shape,
        shapes=len({round_up_length(count(some)) for some in batches}),
        longest_row=max(count([row]) for row in plan.rows),
        answers=max(len(row.answers) for row in plan.rows),
        layers=int(plan.language.config.num_hidden_layers),
        seconds_per_token=speeds,
        update_seconds=update,
        validation_seconds=validation,
        reference_seconds=reference,
        rollout_seconds=drawing,
        checkpoint_seconds=checkpoint,
        checkpoint_bytes=size,
        run_tokens=sum(map(count, batches)) / looked * plan.steps / plan.team.size,
    )


def forecast(plan: LanguageModelModule, seen: Probe) -> Forecast:
    """From what the rehearsal saw to the whole run.

    The time's interval is wide because a machine's speed isn't constant; early stopping may end a
    run sooner still.
    """
    validations = plan.steps // plan.validate_every + 1 if plan.validation else 0
    settings = plan.settings
    landmarks = plan.steps // settings.keep_every if settings.keep_every else 0
    checkpoints = max(validations, 1) + plan.steps // settings.checkpoint_every + landmarks
    extra = (
        seen.reference_seconds
        + validations * seen.validation_seconds
        + checkpoints * seen.checkpoint_seconds
        + plan.steps * seen.update_seconds
        + plan.steps * seen.rollout_seconds
    )
    speeds = seen.seconds_per_token
    typical = sum(speeds) / len(speeds) * seen.run_tokens + extra
    staying = settings.keep_checkpoints + min(landmarks, LANDMARKS)
    kept = min(staying, checkpoints) * seen.checkpoint_bytes
    peak = seen.run_peak
    memory = Quantity("peak memory", "bytes", 0.92 * peak, peak, 1.1 * peak)
    return Forecast(
        memory,
        Quantity(
            "training time",
            "seconds",
            0.7 * min(speeds) * seen.run_tokens + 0.5 * extra,
            typical,
            1.5 * max(speeds) * seen.run_tokens + 2 * extra,
        ),
        Quantity(
            "disk",
            "bytes",
            seen.checkpoint_bytes + plan.artifact_bytes,
            kept + plan.artifact_bytes,
            1.05 * (kept + 2 * seen.checkpoint_bytes + plan.artifact_bytes),
        ),
        gather_claims(plan.team, memory),
    )


def check_fits(seen: Probe, expected: Forecast, folder: Path) -> None:
    """Raises DoesNotFit, with the setting that fits, if memory or disk won't do."""
    if short := first_shortage(expected.claims):
        need, free = short
        raise DoesNotFit(
            f"The run would need up to {need / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are there.",
            # What this process may have of what all who share that memory have.
            suggest_setting(seen, free * expected.memory.high / need),
        )
    room = shutil.disk_usage(folder).free
    if expected.disk.high > room:
        raise DoesNotFit(
            f"The run would write up to {expected.disk.high / 1e9:.2f} GB and "
            f"{room / 1e9:.2f} GB are free in {folder}.",
            "Free some space, name another --out, or set train.keep_checkpoints=1.",
        )


def suggest_setting(seen: Probe, free: float) -> str:
    """The setting that fits into `free` bytes, by the bytes a token that the rehearsal saw.

    With gradient checkpointing the activations of one layer exist at a time.
    """
    fixed, a_token = seen.memory_line
    room = free / 1.10 - fixed
    if (tokens := int(room / a_token)) >= seen.longest_row:
        return f"Set train.micro_batch_tokens={tokens}: that fits."
    if (tokens := int(room / a_token * seen.layers / 2)) >= seen.longest_row:
        most = min(tokens, seen.tokens)
        return (
            f"Set train.gradient_checkpointing=true and train.micro_batch_tokens={most}: that fits."
        )
    if tokens >= 8 * seen.answers:
        return (
            f"Set train.gradient_checkpointing=true and train.max_length={tokens // seen.answers}; "
            f"rows have up to {seen.longest_row} tokens."
        )
    return "Take a smaller model, or train.method=lora: the weights alone fill the memory."


def first_batches(plan: LanguageModelModule) -> list[list[Example]]:
    """The micro-batches of the first steps, of all processes, short ones first."""
    budget = plan.settings.micro_batch_tokens
    rows = (plan.rows_for_step(number) for number in range(min(plan.steps, _LOOKED_AT)))
    parts = (part for step in rows for part in split_by_tokens(step, plan.team.size))
    return sorted(
        (some for part in parts for some in batches_of(plan.language, part, budget)),
        key=lambda some: count_tokens(plan.language, some),
    )


def _repeat_for_processes(plan: LanguageModelModule, rows: Sequence[Example]) -> list[Example]:
    """Rows of which each process gets every one, when they are dealt out."""
    return [row for row in rows for _ in range(plan.team.size)]


def _run_backward(plan: LanguageModelModule, rows: Sequence[Example]) -> None:
    """Gradients of one micro-batch, which each process computes whole."""
    train_step(plan, _repeat_for_processes(plan, rows))


def _update(plan: LanguageModelModule) -> None:
    """All that an update sends and computes, at a rate of 0."""
    plan.optimizer.clip()
    plan.optimizer.step(0, rate=0.0)


def _seconds_per_token(plan: LanguageModelModule, rows: Sequence[Example], bar: Bar) -> float:
    """Of one micro-batch, forth and back."""
    spent = _measure_seconds(lambda: _run_backward(plan, rows))
    bar.advance()
    return spent / count_tokens(plan.language, rows)


def _measure_seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _pass_seconds(plan: LanguageModelModule, rows: Sequence[Example]) -> float:
    """Seconds of a whole pass over rows without learning, from its longest micro-batch."""
    if not rows:
        return 0.0
    count = partial(count_tokens, plan.language)
    batches = batches_of(plan.language, rows, plan.settings.micro_batch_tokens)
    if plan.settings.compile:
        # Without gradients layers are compiled once more, which no later pass does again.
        compute_validation_metrics(plan, _repeat_for_processes(plan, batches[-1]))
    spent = _measure_seconds(
        lambda: compute_validation_metrics(plan, _repeat_for_processes(plan, batches[-1]))
    )
    return spent / count(batches[-1]) * sum(map(count, batches))


def _rollout_seconds(plan: LanguageModelModule) -> float:
    """Seconds a step for making the answers that it learns from."""
    drawing = plan.example_source
    if drawing is None:
        return 0.0
    rows = plan.rows_for_step(0)
    return _measure_seconds(lambda: drawing.dry_run(rows)) / count_updates(plan.settings)


def _time_checkpoint(plan: LanguageModelModule, folder: Path) -> tuple[float, int]:
    """Seconds and bytes of one checkpoint, to which all processes bring their parts."""
    begun = time.perf_counter()
    tensors = plan.optimizer.state_tensors()
    if not plan.team.is_main:
        return time.perf_counter() - begun, 0
    with tempfile.TemporaryDirectory(dir=folder, prefix=".rehearsal-") as place:
        save_checkpoint(Path(place), TrainState(), tensors)
        size = sum(file.stat().st_size for file in Path(place).rglob("*") if file.is_file())
    return time.perf_counter() - begun, size


def _final_weights_bytes(plan: LanguageModelModule) -> float:
    """Bytes beside what rests when the leader has read the best weights, which `take` deals out;
    then it writes a whole model, of a divided one too. What is read stays in main memory."""
    if not plan.team.is_main:
        return 0
    exact = torch.float32.itemsize * plan.optimizer.parameter_count
    dealt = exact * {"none": 0.0, "ddp": 1.0}.get(plan.team.mode, 2 / plan.team.size)
    if torch.cuda.is_available():
        return dealt
    whole = 0
    if plan.settings.shards_weights:
        whole = sum(weight.numel() * weight.element_size() for weight in plan.model.parameters())
    return exact + max(dealt, whole)
