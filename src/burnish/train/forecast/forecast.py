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
from pathlib import Path
from typing import Any

import torch

from burnish.core.errors import DoesNotFit
from burnish.core.progress import Bar, progress
from burnish.train.batching.examples import Example
from burnish.train.batching.micro_batches import computed_tokens, micro_batches
from burnish.train.batching.packed import rounded
from burnish.train.batching.sampler import updates_of
from burnish.train.distributed.process_group import parts_of
from burnish.train.forecast.memory_claims import Claim, Quantity, claimed, crowded
from burnish.train.loop.checkpoint import LANDMARKS, State, save_checkpoint
from burnish.train.loop.language_model import Fit, train_step, validation_means
from burnish.train.loop.peak_memory import current_memory, give_back, peak_memory, reset_peak
from burnish.train.loop.resource_errors import explained
from burnish.train.rlhf.reference import unmeasured

#: Steps whose micro-batches are looked at; longer runs are scaled up from them.
_LOOKED_AT = 200

#: What the peaks of all processes of a run sum up to is called.
TOGETHER = "peak memory of all processes"


@dataclass(frozen=True, slots=True)
class Forecast:
    """Peak memory of this process, time and disk of a run; and the peaks of all its processes,
    by rank, where there are several."""

    memory: Quantity
    time: Quantity
    disk: Quantity
    claims: Sequence[Claim]

    def as_list(self) -> list[dict[str, Any]]:
        """The shape in which reports carry it."""
        all_of_it = [self.memory, self.time, self.disk]
        if len(self.claims) > 1:
            low, expected, high = (
                sum(getattr(claim, bound) for claim in self.claims)
                for bound in ("low", "expected", "high")
            )
            all_of_it.insert(1, Quantity(TOGETHER, "bytes", low, expected, high))
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

    resting: int
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
    draw_seconds: float
    checkpoint_seconds: float
    checkpoint_bytes: int
    run_tokens: float

    @property
    def run_peak(self) -> int:
        """The peak once all lengths have been met; two of them were rehearsed."""
        return self.peak + self.shape_bytes * max(self.shapes - 2, 0)

    @property
    def line(self) -> tuple[float, float]:
        """(bytes whatever the batch, bytes a token more), through the two peaks."""
        if self.half_tokens >= self.tokens or self.half_peak >= self.peak:
            return self.resting, max(self.peak - self.resting, 1) / self.tokens
        a_token = (self.peak - self.half_peak) / (self.tokens - self.half_tokens)
        return max(self.peak - a_token * self.tokens, self.resting), a_token


def probe(plan: Fit, folder: Path) -> Probe:
    """Rehearse. Raises DoesNotFit when even that finds no memory or no disk."""
    plan = unmeasured(plan)
    random = torch.get_rng_state()
    looked = min(plan.steps, _LOOKED_AT)
    batches = first_batches(plan)
    longest = batches[-1]
    half = longest[: max(1, len(longest) // 2)]
    # What loading has freed (weights that are packed now) is no part of the run's peak.
    give_back()
    reset_peak()
    then = "the run has not begun"
    try:
        with progress("Forecasting", total=6) as bar, explained(then, DoesNotFit):
            _step(plan, longest)
            peak = peak_memory()
            bar.advance()
            update = _timed(lambda: _update(plan))
            # The first micro-batch was computed before the optimizer had its moments.
            peak = max(peak + plan.optimizer.moment_bytes, peak_memory())
            give_back()
            resting = current_memory()
            reset_peak()
            _step(plan, half)
            half_peak = peak_memory()
            give_back()
            shape = max(current_memory() - resting, 0)
            bar.advance()
            typical = (batches[int(share * len(batches))] for share in (0.25, 0.75))
            speeds = [_seconds_per_token(plan, some, bar) for some in typical]
            validation = _pass_seconds(plan, plan.validation) / plan.team.size
            measured = [*plan.rows, *plan.validation] if plan.objective.has_reference else []
            reference = _pass_seconds(plan, measured)
            drawing = _draw_seconds(plan)
            bar.advance()
            checkpoint, size = _checkpoint(plan, folder)
            bar.advance()
    finally:
        plan.optimizer.forget()
        torch.set_rng_state(random)
    return Probe(
        resting=resting,
        peak=max(peak, peak_memory(), resting + int(_closing_bytes(plan))),
        tokens=computed_tokens(longest),
        half_peak=half_peak,
        half_tokens=computed_tokens(half),
        shape_bytes=shape,
        shapes=len({rounded(computed_tokens(some)) for some in batches}),
        longest_row=max(computed_tokens([row]) for row in plan.rows),
        answers=max(len(row.answers) for row in plan.rows),
        layers=int(plan.language.config.num_hidden_layers),
        seconds_per_token=speeds,
        update_seconds=update,
        validation_seconds=validation,
        reference_seconds=reference,
        draw_seconds=drawing,
        checkpoint_seconds=checkpoint,
        checkpoint_bytes=size,
        run_tokens=sum(map(computed_tokens, batches)) / looked * plan.steps / plan.team.size,
    )


def forecast(plan: Fit, seen: Probe) -> Forecast:
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
        + plan.steps * seen.draw_seconds
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
        claimed(plan.team, memory),
    )


def refuse_what_does_not_fit(seen: Probe, expected: Forecast, folder: Path) -> None:
    """Raises DoesNotFit, with the setting that fits, if memory or disk won't do."""
    if short := crowded(expected.claims):
        need, free = short
        raise DoesNotFit(
            f"The run would need up to {need / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are there.",
            # What this process may have of what all who share that memory have.
            fitting_setting(seen, free * expected.memory.high / need),
        )
    room = shutil.disk_usage(folder).free
    if expected.disk.high > room:
        raise DoesNotFit(
            f"The run would write up to {expected.disk.high / 1e9:.2f} GB and "
            f"{room / 1e9:.2f} GB are free in {folder}.",
            "Free some space, name another --out, or set train.keep_checkpoints=1.",
        )


def fitting_setting(seen: Probe, free: float) -> str:
    """The setting that fits into `free` bytes, by the bytes a token that the rehearsal saw.

    With gradient checkpointing the activations of one layer exist at a time.
    """
    fixed, a_token = seen.line
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


def first_batches(plan: Fit) -> list[list[Example]]:
    """The micro-batches of the first steps, of all processes, short ones first."""
    budget = plan.settings.micro_batch_tokens
    rows = (plan.rows_of(number) for number in range(min(plan.steps, _LOOKED_AT)))
    parts = (part for step in rows for part in parts_of(step, plan.team.size))
    return sorted(
        (some for part in parts for some in micro_batches(part, budget)), key=computed_tokens
    )


def _dealt(plan: Fit, rows: Sequence[Example]) -> list[Example]:
    """Rows of which each process gets every one, when they are dealt out."""
    return [row for row in rows for _ in range(plan.team.size)]


def _step(plan: Fit, rows: Sequence[Example]) -> None:
    """Gradients of one micro-batch, which each process computes whole."""
    train_step(plan, _dealt(plan, rows))


def _update(plan: Fit) -> None:
    """All that an update sends and computes, at a rate of 0."""
    plan.optimizer.clip()
    plan.optimizer.step(0, rate=0.0)


def _seconds_per_token(plan: Fit, rows: Sequence[Example], bar: Bar) -> float:
    """Of one micro-batch, forth and back."""
    spent = _timed(lambda: _step(plan, rows))
    bar.advance()
    return spent / computed_tokens(rows)


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _pass_seconds(plan: Fit, rows: Sequence[Example]) -> float:
    """Seconds of a whole pass over rows without learning, from its longest micro-batch."""
    if not rows:
        return 0.0
    batches = micro_batches(rows, plan.settings.micro_batch_tokens)
    if plan.settings.compile:
        # Without gradients layers are compiled once more, which no later pass does again.
        validation_means(plan, _dealt(plan, batches[-1]))
    spent = _timed(lambda: validation_means(plan, _dealt(plan, batches[-1])))
    return spent / computed_tokens(batches[-1]) * sum(map(computed_tokens, batches))


def _draw_seconds(plan: Fit) -> float:
    """Seconds a step for making the answers that it learns from."""
    drawing = plan.drawing
    if drawing is None:
        return 0.0
    rows = plan.rows_of(0)
    return _timed(lambda: drawing.rehearse(rows)) / updates_of(plan.settings)


def _checkpoint(plan: Fit, folder: Path) -> tuple[float, int]:
    """Seconds and bytes of one checkpoint, to which all processes bring their parts."""
    begun = time.perf_counter()
    tensors = plan.optimizer.tensors()
    if not plan.team.leads:
        return time.perf_counter() - begun, 0
    with tempfile.TemporaryDirectory(dir=folder, prefix=".rehearsal-") as place:
        save_checkpoint(Path(place), State(), tensors)
        size = sum(file.stat().st_size for file in Path(place).rglob("*") if file.is_file())
    return time.perf_counter() - begun, size


def _closing_bytes(plan: Fit) -> float:
    """Bytes beside what rests when the leader has read the best weights, which `take` deals out;
    then it writes a whole model, of a divided one too. What is read stays in main memory."""
    if not plan.team.leads:
        return 0
    exact = torch.float32.itemsize * plan.optimizer.trained
    dealt = exact * {"none": 0.0, "ddp": 1.0}.get(plan.team.mode, 2 / plan.team.size)
    if torch.cuda.is_available():
        return dealt
    whole = 0
    if plan.settings.divides_weights:
        whole = sum(weight.numel() * weight.element_size() for weight in plan.model.parameters())
    return exact + max(dealt, whole)
