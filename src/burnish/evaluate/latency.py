"""Latency of single requests: how long one user waits for an answer."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

from burnish.core.records import Interval, Prompt
from burnish.core.stats import quantile_interval
from burnish.engines.protocol import Engine

#: Maximum number of timed requests; the seconds after which no further one is begun; and the
#: minimum number.
_QUESTIONS, _SECONDS, _LEAST = 16, 15.0, 3
#: Share of CPU time used by other programs above which timings are distorted.
BUSY = 0.1


@dataclass(slots=True)
class Timing:
    """Seconds of single requests, and the share of CPU time (0 to 1) that other programs used
    meanwhile."""

    seconds: list[float] = field(default_factory=list)
    busy: float = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether other programs distorted the times."""
        return self.busy > BUSY


def measure_latencies(engine: Engine, prompts: Sequence[Prompt]) -> Timing:
    """Time a sample of the prompts, evenly spread, one request at a time.

    Nothing is batched. The sample depends on the number of prompts only, so that two engines' times
    can be paired. A prompt outside the sample warms up, if there is one: an engine with a prefix
    cache would be faster the second time.
    """
    stride = max(len(prompts) // _QUESTIONS, 1)
    sample = [*range(0, len(prompts), stride)][:_QUESTIONS]
    others = [index for index in range(len(prompts)) if index not in sample]
    engine.answer([prompts[(others or sample)[-1]]] if sample else [], batch_size=1)
    timing = Timing()
    with _others_counted(timing):
        begun = time.monotonic()
        for index in sample:
            before = time.perf_counter()
            engine.answer([prompts[index]], batch_size=1)
            timing.seconds.append(time.perf_counter() - before)
            if len(timing.seconds) >= _LEAST and time.monotonic() - begun > _SECONDS:
                break
    return timing


def middle(seconds: Sequence[float], confidence: float) -> Interval:
    """Return the median with its interval, limited to the range of the times."""
    interval = quantile_interval(seconds, 0.5, confidence)
    if not seconds:
        return interval
    return Interval(
        interval.value,
        max(interval.low, min(seconds)),
        min(interval.high, max(seconds)),
        interval.n,
    )


def waited(route: Mapping[str, Any]) -> str:
    """Format the median of a route as `--json` has it: `412 ms (398 to 455)`; a busy machine is
    noted."""
    low, high = (1000 * end for end in route["latency_p50_ci"] or (0.0, 0.0))
    text = f"{route['latency_p50_s'] * 1000:6.0f} ms ({low:.0f} to {high:.0f})"
    return f"{text}, busy" if route["busy"] > BUSY else text


@contextmanager
def _others_counted(timing: Timing) -> Iterator[None]:
    """Record the share of CPU time that other programs use until the block ends."""
    begun, own_start, all_start = time.monotonic(), _own_seconds(), _all_seconds()
    yield
    capacity = max(time.monotonic() - begun, 1e-9) * (psutil.cpu_count() or 1)
    others = (_all_seconds() - all_start) - (_own_seconds() - own_start)
    # Allow for the system's clock ticks of a hundredth of a second.
    timing.busy = min(max(others - 0.02 * (psutil.cpu_count() or 1), 0.0) / capacity, 1.0)


def _all_seconds() -> float:
    """Return the CPU time used by all programs; on a virtual machine, including time the host gave
    to others."""
    times = psutil.cpu_times()
    idle = ("idle", "iowait", "guest", "guest_nice")
    return float(sum(value for name, value in times._asdict().items() if name not in idle))


def _own_seconds() -> float:
    """Return the CPU time of this process and its children, which may be engines."""
    current = psutil.Process()
    return sum(_seconds_of(process) for process in (current, *current.children(recursive=True)))


def _seconds_of(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
