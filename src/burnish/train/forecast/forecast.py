"""The forecast of a run: peak memory, time and disk, with intervals; and whether the run fits."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from burnish.core.errors import DoesNotFit
from burnish.train.forecast.memory_claims import (
    MemoryClaim,
    Quantity,
    first_shortage,
    gather_claims,
)
from burnish.train.forecast.probe import ProbeResult
from burnish.train.loop.checkpoint import LANDMARKS
from burnish.train.loop.language_model import LanguageModelModule

#: The name of the summed peaks of all processes of a run.
TOTAL_PEAK_MEMORY = "peak memory of all processes"


@dataclass(frozen=True, slots=True)
class Forecast:
    """Peak memory of this process, time and disk of a run, and the memory claims of all its
    processes, by rank."""

    memory: Quantity
    time: Quantity
    disk: Quantity
    claims: Sequence[MemoryClaim]

    def as_list(self) -> list[dict[str, Any]]:
        """Return the shape of `forecast.json` and of reports."""
        quantities = [self.memory, self.time, self.disk]
        if len(self.claims) > 1:
            low, expected, high = (
                sum(getattr(claim, bound) for claim in self.claims)
                for bound in ("low", "expected", "high")
            )
            quantities.insert(1, Quantity(TOTAL_PEAK_MEMORY, "bytes", low, expected, high))
        return [asdict(quantity) for quantity in quantities]


def forecast(module: LanguageModelModule, measured: ProbeResult) -> Forecast:
    """Extrapolate from the probe to the whole run.

    The interval of the time is wide because a machine's speed isn't constant; early stopping may
    end a run sooner still.
    """
    validations = module.steps // module.validate_every + 1 if module.validation else 0
    settings = module.settings
    landmarks = module.steps // settings.keep_every if settings.keep_every else 0
    checkpoints = max(validations, 1) + module.steps // settings.checkpoint_every + landmarks
    extra = (
        measured.reference_seconds
        + validations * measured.validation_seconds
        + checkpoints * measured.checkpoint_seconds
        + module.steps * measured.update_seconds
        + module.steps * measured.rollout_seconds
    )
    speeds = measured.seconds_per_token
    typical = sum(speeds) / len(speeds) * measured.run_tokens + extra
    most_kept = settings.keep_checkpoints + min(landmarks, LANDMARKS)
    kept = min(most_kept, checkpoints) * measured.checkpoint_bytes
    peak = measured.run_peak
    memory = Quantity("peak memory", "bytes", 0.92 * peak, peak, 1.1 * peak)
    return Forecast(
        memory,
        Quantity(
            "training time",
            "seconds",
            0.7 * min(speeds) * measured.run_tokens + 0.5 * extra,
            typical,
            1.5 * max(speeds) * measured.run_tokens + 2 * extra,
        ),
        Quantity(
            "disk",
            "bytes",
            measured.checkpoint_bytes + module.artifact_bytes,
            kept + module.artifact_bytes,
            1.05 * (kept + 2 * measured.checkpoint_bytes + module.artifact_bytes),
        ),
        gather_claims(module.process_group, memory),
    )


def check_fits(measured: ProbeResult, expected: Forecast, folder: Path) -> None:
    """Raise DoesNotFit, with the setting that fits, if memory or disk is too small."""
    if shortage := first_shortage(expected.claims):
        need, free = shortage
        raise DoesNotFit(
            f"The run would need up to {need / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are available.",
            # This process's share of the memory that the processes have together.
            suggest_setting(measured, free * expected.memory.high / need),
        )
    free_disk = shutil.disk_usage(folder).free
    if expected.disk.high > free_disk:
        raise DoesNotFit(
            f"The run would write up to {expected.disk.high / 1e9:.2f} GB and "
            f"{free_disk / 1e9:.2f} GB are free in {folder}.",
            "Free some space, name another --out, or set train.keep_checkpoints=1.",
        )


def suggest_setting(measured: ProbeResult, free: float) -> str:
    """Return the setting that fits into `free` bytes, by the bytes of a token in the probe.

    With gradient checkpointing the activations of one layer exist at a time.
    """
    fixed, per_token = measured.memory_line
    available = free / 1.10 - fixed
    if (tokens := int(available / per_token)) >= measured.longest_row:
        return f"Set train.micro_batch_tokens={tokens}: that fits."
    if (tokens := int(available / per_token * measured.layers / 2)) >= measured.longest_row:
        most = min(tokens, measured.tokens)
        return (
            f"Set train.gradient_checkpointing=true and train.micro_batch_tokens={most}: that fits."
        )
    if tokens >= 8 * measured.answers:
        max_length = tokens // measured.answers
        return (
            f"Set train.gradient_checkpointing=true and train.max_length={max_length}; rows have "
            f"up to {measured.longest_row} tokens."
        )
    return "Take a smaller model, or train.method=lora: the weights alone fill the memory."
