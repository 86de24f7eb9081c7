"""Probe steps: what a run needs, measured by a few real steps on this machine before it begins.

The probe runs the longest micro-batch (it sets the peak), half of it (which shows the cost of a
token), two typical ones, an update at a learning rate of 0, one micro-batch of validation and one
checkpoint. Nothing of it changes the run: the weights stay what they are to the last bit, and the
random states are put back. Where several processes train, all of them probe at once, each with all
of the work, communication included.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from burnish.core.errors import DoesNotFit
from burnish.core.progress import Bar, progress
from burnish.train.batching.examples import Example
from burnish.train.batching.packed import round_up_length
from burnish.train.batching.sampler import count_updates
from burnish.train.distributed.process_group import split_by_tokens
from burnish.train.forward.path import batches_of, count_tokens
from burnish.train.loop.checkpoint import TrainState, save_checkpoint
from burnish.train.loop.language_model import (
    LanguageModelModule,
    compute_validation_metrics,
    train_step,
)
from burnish.train.loop.peak_memory import current_memory, peak_memory, release_memory, reset_peak
from burnish.train.loop.resource_errors import resource_errors

#: Steps whose micro-batches are counted; longer runs are extrapolated from them.
_COUNTED_STEPS = 200


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The measurements of the probe. Bytes, tokens and seconds.

    `peak` is the memory with the longest micro-batch, of `tokens` computed tokens, `half_peak` that
    with half of its rows, and `baseline` what stays between batches: weights, gradients, moments,
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
        """The peak once all lengths have occurred; the probe has run two of them."""
        return self.peak + self.shape_bytes * max(self.shapes - 2, 0)

    @property
    def memory_line(self) -> tuple[float, float]:
        """(bytes of an empty batch, bytes of each token), through the two peaks."""
        if self.half_tokens >= self.tokens or self.half_peak >= self.peak:
            return self.baseline, max(self.peak - self.baseline, 1) / self.tokens
        per_token = (self.peak - self.half_peak) / (self.tokens - self.half_tokens)
        return max(self.peak - per_token * self.tokens, self.baseline), per_token


class _Peaks(NamedTuple):
    """Bytes of the micro-batches that set the peak, and the seconds of an update after them."""

    baseline: int
    peak: int
    half_peak: int
    shape_bytes: int
    update_seconds: float


def probe(module: LanguageModelModule, folder: Path) -> ProbeResult:
    """Run the probe. Raises DoesNotFit when even that runs out of memory or disk."""
    stages = module.objective.stages
    for stage in stages:
        module = stage.for_probe(module)
    rows_to_score = [row for stage in stages for row in stage.rows_to_score(module)]
    random_state = torch.get_rng_state()
    counted_steps = min(module.steps, _COUNTED_STEPS)
    count = partial(count_tokens, module.language)
    batches = first_batches(module)
    longest = batches[-1]
    half = longest[: max(1, len(longest) // 2)]
    errors = resource_errors("the run has not begun", DoesNotFit)
    try:
        with progress("Forecasting", total=6) as bar, errors:
            peaks = _measure_peaks(module, longest, half, bar)
            typical = (batches[int(share * len(batches))] for share in (0.25, 0.75))
            speeds = [_seconds_per_token(module, batch, bar) for batch in typical]
            validation = _pass_seconds(module, module.validation) / module.process_group.size
            reference = _pass_seconds(module, rows_to_score)
            rollout = _rollout_seconds(module)
            bar.advance()
            checkpoint, checkpoint_bytes = _time_checkpoint(module, folder)
            bar.advance()
    finally:
        module.optimizer.reset()
        torch.set_rng_state(random_state)
    final_bytes = peaks.baseline + int(_final_weights_bytes(module))
    tokens = sum(map(count, batches)) / module.process_group.size
    return ProbeResult(
        baseline=peaks.baseline,
        peak=max(peaks.peak, peak_memory(), final_bytes),
        tokens=count(longest),
        half_peak=peaks.half_peak,
        half_tokens=count(half),
        shape_bytes=peaks.shape_bytes,
        shapes=len({round_up_length(count(batch)) for batch in batches}),
        longest_row=max(count([row]) for row in module.rows),
        answers=max(len(row.answers) for row in module.rows),
        layers=int(module.language.config.num_hidden_layers),
        seconds_per_token=speeds,
        update_seconds=peaks.update_seconds,
        validation_seconds=validation,
        reference_seconds=reference,
        rollout_seconds=rollout,
        checkpoint_seconds=checkpoint,
        checkpoint_bytes=checkpoint_bytes,
        run_tokens=tokens / counted_steps * module.steps,
    )


def _measure_peaks(
    module: LanguageModelModule, longest: Sequence[Example], half: Sequence[Example], bar: Bar
) -> _Peaks:
    """Run the longest micro-batch, an update, and half of the micro-batch."""
    # Memory that loading has freed (weights that are packed now) is not part of the run's peak.
    release_memory()
    reset_peak()
    _run_backward(module, longest)
    peak = peak_memory()
    bar.advance()
    update_seconds = _measure_seconds(lambda: _update(module))
    # The first micro-batch was computed before the optimizer had its moments.
    peak = max(peak + module.optimizer.moment_bytes, peak_memory())
    release_memory()
    baseline = current_memory()
    reset_peak()
    _run_backward(module, half)
    half_peak = peak_memory()
    release_memory()
    shape_bytes = max(current_memory() - baseline, 0)
    bar.advance()
    return _Peaks(baseline, peak, half_peak, shape_bytes, update_seconds)


def first_batches(module: LanguageModelModule) -> list[list[Example]]:
    """Return the micro-batches of the first steps, of all processes, short ones first."""
    budget = module.settings.micro_batch_tokens
    rows = (module.rows_for_step(number) for number in range(min(module.steps, _COUNTED_STEPS)))
    parts = (part for step in rows for part in split_by_tokens(step, module.process_group.size))
    return sorted(
        (batch for part in parts for batch in batches_of(module.language, part, budget)),
        key=partial(count_tokens, module.language),
    )


def _repeat_for_processes(module: LanguageModelModule, rows: Sequence[Example]) -> list[Example]:
    """Repeat rows so that each process gets all of them when they are split."""
    return [row for row in rows for _ in range(module.process_group.size)]


def _run_backward(module: LanguageModelModule, rows: Sequence[Example]) -> None:
    """Compute the gradients of one micro-batch, which every process computes whole."""
    train_step(module, _repeat_for_processes(module, rows))


def _update(module: LanguageModelModule) -> None:
    """Do an update at a learning rate of 0, communication included."""
    module.optimizer.clip()
    module.optimizer.step(0, rate=0.0)


def _seconds_per_token(module: LanguageModelModule, rows: Sequence[Example], bar: Bar) -> float:
    """Return the seconds of a token in one forward and backward pass."""
    seconds = _measure_seconds(lambda: _run_backward(module, rows))
    bar.advance()
    return seconds / count_tokens(module.language, rows)


def _measure_seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _pass_seconds(module: LanguageModelModule, rows: Sequence[Example]) -> float:
    """Estimate the seconds of a forward pass over all rows from its longest micro-batch."""
    if not rows:
        return 0.0
    count = partial(count_tokens, module.language)
    batches = batches_of(module.language, rows, module.settings.micro_batch_tokens)
    if module.settings.compile:
        # Without gradients the layers are compiled once more; later passes don't compile.
        compute_validation_metrics(module, _repeat_for_processes(module, batches[-1]))
    seconds = _measure_seconds(
        lambda: compute_validation_metrics(module, _repeat_for_processes(module, batches[-1]))
    )
    return seconds / count(batches[-1]) * sum(map(count, batches))


def _rollout_seconds(module: LanguageModelModule) -> float:
    """Return the seconds of a step for sampling the answers that it learns from."""
    source = module.example_source
    if source is None:
        return 0.0
    rows = module.rows_for_step(0)
    return _measure_seconds(lambda: source.dry_run(rows)) / count_updates(module.settings)


def _time_checkpoint(module: LanguageModelModule, folder: Path) -> tuple[float, int]:
    """Return the seconds and bytes of one checkpoint, to which every process brings its shard."""
    begun = time.perf_counter()
    tensors = module.optimizer.state_tensors()
    if not module.process_group.is_main:
        return time.perf_counter() - begun, 0
    with tempfile.TemporaryDirectory(dir=folder, prefix=".probe-") as folder_name:
        save_checkpoint(Path(folder_name), TrainState(), tensors)
        size = sum(file.stat().st_size for file in Path(folder_name).rglob("*") if file.is_file())
    return time.perf_counter() - begun, size


def _final_weights_bytes(module: LanguageModelModule) -> float:
    """Return the bytes on top of the baseline at the end of the run: the main process reads the
    best weights, `set_weights` scatters them, and a sharded model is written whole. What is read
    stays in main memory."""
    if not module.process_group.is_main:
        return 0
    exact = torch.float32.itemsize * module.optimizer.parameter_count
    scattered = exact * {"none": 0.0, "ddp": 1.0}.get(
        module.process_group.mode, 2 / module.process_group.size
    )
    if torch.cuda.is_available():
        return scattered
    whole = 0
    if module.settings.shards_weights:
        whole = sum(weight.numel() * weight.element_size() for weight in module.model.parameters())
    return exact + max(scattered, whole)
