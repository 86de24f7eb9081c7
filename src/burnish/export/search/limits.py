"""Limits on latency, memory, disk and start-up, and by how much a trial breaks them.

A limit on a quantile is surely broken when the lower end of its interval exceeds it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from burnish.core.recipe.export import FormatSearch
from burnish.core.stats import quantile_interval
from burnish.export.search.trial import CandidateTrial


@dataclass(frozen=True, slots=True)
class SearchLimit:
    """One limit: label, unit, measured value, and lower confidence bound of the value."""

    label: str
    unit: str
    value: Callable[[CandidateTrial], float]
    lower_bound: Callable[[CandidateTrial, float], float]


def _latency_limit(share: float) -> SearchLimit:
    return SearchLimit(
        f"p{100 * share:.0f} latency",
        "seconds",
        lambda trial: trial.latency(share),
        lambda trial, confidence: quantile_interval(trial.seconds, share, confidence).low,
    )


LIMITS: Mapping[str, SearchLimit] = {
    "latency_p50": _latency_limit(0.5),
    "latency_p95": _latency_limit(0.95),
    "memory": SearchLimit(
        "memory of the server", "bytes", lambda t: t.memory_bytes, lambda t, _: t.memory_bytes
    ),
    "disk": SearchLimit("size on disk", "bytes", lambda t: t.disk_bytes, lambda t, _: t.disk_bytes),
    "start_up": SearchLimit(
        "start-up time", "seconds", lambda t: t.start_up_s, lambda t, _: min(t.starts)
    ),
}
_UNITS = {"seconds": (("s", 1.0), ("ms", 1e-3)), "bytes": (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))}


def format_amount(value: float, unit: str) -> str:
    """Format a quantity in seconds or bytes with three digits: `412 ms`, `1.3 GB`."""
    units = _UNITS[unit]
    name, size = next((unit_size for unit_size in units if value >= unit_size[1]), units[-1])
    return f"{value / size:.3g} {name}"


def broken_limits(
    trial: CandidateTrial, fit: FormatSearch, confidence: float | None = None
) -> dict[str, float]:
    """Return the limits that a trial breaks as measured, or surely with `confidence`: name →
    ratio."""
    broken = {}
    for name, limit in LIMITS.items():
        allowed = getattr(fit, name)
        if allowed is None:
            continue
        value = limit.value(trial) if confidence is None else limit.lower_bound(trial, confidence)
        if value > allowed:
            broken[name] = value / allowed
    return broken


def explain_excess(trial: CandidateTrial, fit: FormatSearch, name: str) -> str:
    """Return a sentence that says by how much a trial breaks a limit."""
    limit, allowed = LIMITS[name], getattr(fit, name)
    value = limit.value(trial)
    over = value - allowed
    return (
        f"{limit.label} is {format_amount(value, limit.unit)}, "
        f"{format_amount(allowed, limit.unit)} is allowed: "
        f"{format_amount(over, limit.unit)} ({over / allowed:.0%}) too much"
    )


def explain_impossible(trials: Sequence[CandidateTrial], fit: FormatSearch) -> list[str]:
    """Explain why no trial keeps all limits: each limit that none keeps, with the nearest trial.

    If each limit alone is kept by some trial, the one nearest to keeping all.
    """
    measured = [trial for trial in trials if trial.seconds]
    over = {trial: broken_limits(trial, fit) for trial in measured}
    if not measured or any(not broken for broken in over.values()):
        return []
    reasons = []
    for name in LIMITS:
        if all(name in broken for broken in over.values()):
            nearest = min(measured, key=lambda trial: over[trial][name])
            reasons.append(f"No format keeps {name}. Nearest is {nearest.candidate}: its "
                        f"{explain_excess(nearest, fit, name)}.")  # fmt: skip
    if reasons:
        return reasons
    nearest = min(measured, key=lambda trial: max(over[trial].values()))
    lines = "; its ".join(explain_excess(nearest, fit, name) for name in over[nearest])
    return [f"No format keeps all limits at once. Nearest is {nearest.candidate}: its {lines}."]
