"""How long one answer takes when it is asked alone: what a single user waits for."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

from burnish.core.records import Interval, Prompt
from burnish.core.stats import quantile_interval
from burnish.engines.protocol import Engine

#: Questions asked alone, at most; and the seconds after which no further one is begun.
_QUESTIONS, _SECONDS, _LEAST = 16, 15.0, 3
#: From this share of the processors on that other programs use, times are theirs too.
BUSY = 0.1


@dataclass(slots=True)
class Timing:
    """Seconds of single requests, and the share of the machine's processors (0 to 1) that other
    programs used meanwhile."""

    seconds: list[float] = field(default_factory=list)
    busy: float = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether the times are those of a machine that had other work."""
        return self.busy > BUSY


def measure_latencies(engine: Engine, prompts: Sequence[Prompt]) -> Timing:
    """Time a few prompts, spread over all, asked one at a time.

    Nothing is shared between them and none waits for a batch. As many prompts give the same places,
    so that two engines' times can be paired. Another prompt warms up, where there is one: an engine
    that keeps what it has read would be quicker at its second turn.
    """
    stride = max(len(prompts) // _QUESTIONS, 1)
    places = [*range(0, len(prompts), stride)][:_QUESTIONS]
    others = [place for place in range(len(prompts)) if place not in places]
    engine.answer([prompts[(others or places)[-1]]] if places else [], batch_size=1)
    timing = Timing()
    with _others_counted(timing):
        begun = time.monotonic()
        for place in places:
            before = time.perf_counter()
            engine.answer([prompts[place]], batch_size=1)
            timing.seconds.append(time.perf_counter() - before)
            if len(timing.seconds) >= _LEAST and time.monotonic() - begun > _SECONDS:
                break
    return timing


def middle(seconds: Sequence[float], confidence: float) -> Interval:
    """The median with its interval, which is as wide as the times themselves where they are few."""
    found = quantile_interval(seconds, 0.5, confidence)
    if not seconds:
        return found
    return Interval(
        found.value, max(found.low, min(seconds)), min(found.high, max(seconds)), found.n
    )


def waited(route: Mapping[str, Any]) -> str:
    """`412 ms (398 to 455)`: the median of a route as `--json` has it; a busy machine is named."""
    low, high = (1000 * end for end in route["latency_p50_ci"] or (0.0, 0.0))
    told = f"{route['latency_p50_s'] * 1000:6.0f} ms ({low:.0f} to {high:.0f})"
    return f"{told}, busy" if route["busy"] > BUSY else told


@contextmanager
def _others_counted(timing: Timing) -> Iterator[None]:
    """Note which share of the processors other programs use until the block ends."""
    begun, own, everything = time.monotonic(), _own_seconds(), _all_seconds()
    yield
    spent = max(time.monotonic() - begun, 1e-9) * (psutil.cpu_count() or 1)
    others = (_all_seconds() - everything) - (_own_seconds() - own)
    # The system counts in hundredths of a second: what a short time shows is no more than that.
    timing.busy = min(max(others - 0.02 * (psutil.cpu_count() or 1), 0.0) / spent, 1.0)


def _all_seconds() -> float:
    """Processor time that all programs have used; of a virtual machine, what its host gave away
    to others too."""
    times = psutil.cpu_times()
    idle = ("idle", "iowait", "guest", "guest_nice")
    return float(sum(value for name, value in times._asdict().items() if name not in idle))


def _own_seconds() -> float:
    """Processor time of this process and of its children, which engines may be."""
    own = psutil.Process()
    return sum(_seconds_of(process) for process in (own, *own.children(recursive=True)))


def _seconds_of(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
