"""What a run will need, measured before it begins: a few real steps on this machine.

Probed are the longest micro-batch (it sets the peak), typical steps, one micro-batch of validation
and one checkpoint. Nothing of it changes the run: weights don't move, random states are put back.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from burnish.core.errors import DoesNotFit
from burnish.core.progress import progress
from burnish.models.chat import Encoded
from burnish.models.load import available_memory
from burnish.train.batches import micro_batches, rows_of_step
from burnish.train.checkpoint import State, save_checkpoint
from burnish.train.flat import flatten
from burnish.train.loop import Fit, train_step
from burnish.train.memory import current_memory, peak_memory, reset_peak

PROBE_STEPS = 3


@dataclass(frozen=True, slots=True)
class Quantity:
    """One forecast with its interval, and what came out. `unit` is `bytes` or `seconds`."""

    name: str
    unit: str
    low: float
    expected: float
    high: float
    actual: float | None = None


@dataclass(frozen=True, slots=True)
class Forecast:
    """Peak memory, time and disk of a run."""

    memory: Quantity
    time: Quantity
    disk: Quantity

    def as_list(self) -> list[dict[str, Any]]:
        """The shape in which reports carry it."""
        return [asdict(quantity) for quantity in (self.memory, self.time, self.disk)]


@dataclass(frozen=True, slots=True)
class Probe:
    """What a few real steps showed. Bytes and seconds; `tokens` are those of the longest batch."""

    resting: int
    peak: int
    tokens: int
    longest_row: int
    step_seconds: Sequence[float]
    validation_seconds: float
    checkpoint_seconds: float
    checkpoint_bytes: int


def probe(plan: Fit, folder: Path) -> Probe:
    """Run the probe steps. Raises DoesNotFit when even they find no memory."""
    torch_random = torch.get_rng_state()
    batches = [
        some
        for number in range(min(plan.steps, 200))
        for some in micro_batches(
            rows_of_step(plan.rows, number, plan.settings), plan.settings.micro_batch_tokens
        )
    ]
    longest = max(batches, key=_padded)
    resting = current_memory()
    reset_peak()
    try:
        with progress("Forecasting", total=PROBE_STEPS + 3) as bar:
            train_step(plan, longest)
            peak_one = peak_memory()
            bar.advance()
            seconds = []
            for number in range(PROBE_STEPS):
                rows = rows_of_step(plan.rows, number % plan.steps, plan.settings)
                seconds.append(_timed(lambda rows=rows: train_step(plan, rows)) / _tokens(rows))  # type: ignore[misc]
                bar.advance()
            validation = _validation_seconds(plan) if plan.validation else 0.0
            bar.advance()
            spent, size = _checkpoint(plan, folder)
            bar.advance()
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise DoesNotFit("Even one micro-batch finds no memory.", _cure(plan)) from error
    finally:
        plan.optimizer.adamw.zero_grad(set_to_none=False)
        torch.set_rng_state(torch_random)
    peak = max(peak_one, peak_memory())
    return Probe(
        resting, peak, _padded(longest), max(len(row.ids) for row in longest), seconds,
        validation, spent, size,
    )  # fmt: skip


def forecast(plan: Fit, seen: Probe) -> Forecast:
    """From what the probe saw to the whole run.

    Memory: the probe's peak and the optimizer's moments, which it hasn't made yet. Time: seconds a
    token times the tokens of the run, and the validations and checkpoints that fall due. The time's
    interval is wide because a machine's speed isn't constant; early stopping may end a run sooner.
    """
    moments = sum(2 * master.numel() * 4 for master in plan.optimizer.masters.values())
    memory = seen.peak + moments
    mean_tokens = _tokens(plan.rows) / len(plan.rows)
    tokens = mean_tokens * min(
        plan.steps * plan.settings.batch_size, len(plan.rows) * plan.settings.epochs
    )
    validations = plan.steps // plan.validate_every + 1
    checkpoints = validations + plan.steps // plan.settings.checkpoint_every
    extra = validations * seen.validation_seconds + checkpoints * seen.checkpoint_seconds
    typical = statistics.median(seen.step_seconds)
    slowest, fastest = max(seen.step_seconds), min(seen.step_seconds)
    disk = seen.checkpoint_bytes * (plan.settings.keep_checkpoints + 2) + moments
    return Forecast(
        Quantity("peak memory", "bytes", memory * 0.97, memory, memory * 1.10),
        Quantity(
            "training time", "seconds", 0.7 * fastest * tokens + extra, typical * tokens + extra,
            1.3 * slowest * tokens + extra,
        ),
        Quantity("disk", "bytes", disk * 0.5, disk, disk * 1.2),
    )  # fmt: skip


def refuse_what_does_not_fit(plan: Fit, seen: Probe, expected: Forecast, folder: Path) -> None:
    """Raises DoesNotFit, with the setting that fits, if memory or disk won't do."""
    free = available_memory() + seen.peak
    if expected.memory.high > free:
        raise DoesNotFit(
            f"The run would need up to {expected.memory.high / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are there.",
            fitting_setting(seen, expected, free),
        )
    room = shutil.disk_usage(folder).free
    if expected.disk.high > room:
        raise DoesNotFit(
            f"The run would write up to {expected.disk.high / 1e9:.2f} GB and "
            f"{room / 1e9:.2f} GB are free in {folder}.",
            "Free some space, name another --out, or set train.keep_checkpoints=1.",
        )


def fitting_setting(seen: Probe, expected: Forecast, free: float) -> str:
    """The largest micro-batch whose activations fit, by the bytes a token that the probe saw."""
    activations = max(seen.peak - seen.resting, 1)
    fixed = expected.memory.high - activations * 1.10
    tokens = int((free - fixed) / (activations * 1.10) * seen.tokens)
    if tokens >= seen.longest_row:
        return f"Set train.micro_batch_tokens={tokens}: that fits."
    return "Set train.gradient_checkpointing=true, or a shorter train.max_length, or a lower rank."


def _padded(rows: Sequence[Encoded]) -> int:
    return len(rows) * max(len(row.ids) for row in rows)


def _tokens(rows: Sequence[Encoded]) -> int:
    return sum(len(row.ids) for row in rows)


def _timed(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@torch.no_grad()
def _validation_seconds(plan: Fit) -> float:
    """Seconds of a whole validation, from its longest micro-batch."""
    plan.model.eval()
    batches = micro_batches(plan.validation, plan.settings.micro_batch_tokens)
    longest = flatten(batches[-1], plan.accelerator.device)
    spent = _timed(lambda: plan.loss(plan.language, longest))
    return spent / _tokens(batches[-1]) * _tokens(plan.validation)


def _checkpoint(plan: Fit, folder: Path) -> tuple[float, int]:
    """Seconds and bytes of one checkpoint, the moments counted in."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".probe-") as place:
        spent = _timed(lambda: save_checkpoint(Path(place), State(), plan.optimizer.tensors()))
        size = sum(file.stat().st_size for file in Path(place).rglob("*") if file.is_file())
    return 3 * spent, 3 * size


def _cure(plan: Fit) -> str:
    half = plan.settings.micro_batch_tokens // 2
    return f"Set train.micro_batch_tokens={half}, or train.gradient_checkpointing=true."
