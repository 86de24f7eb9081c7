"""What the machine allows: limits on latency, memory, disk and start-up, and how far they break.

A limit on a quantile is surely broken when the lower end of its interval is over it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from burnish.core.recipe.export import FormatSearch
from burnish.core.stats import quantile_interval
from burnish.export.search.trial import CandidateTrial


@dataclass(frozen=True, slots=True)
class SearchLimit:
    """One limit: what it is, its unit, the value measured, and what it surely isn't below."""

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
    """`412 ms`, `1.3 GB`: a quantity in seconds or bytes, with three digits."""
    units = _UNITS[unit]
    name, size = next((one for one in units if value >= one[1]), units[-1])
    return f"{value / size:.3g} {name}"


def broken_limits(
    trial: CandidateTrial, fit: FormatSearch, confidence: float | None = None
) -> dict[str, float]:
    """Limits that a trial breaks as measured, or surely with `confidence`: name → times over."""
    found = {}
    for name, limit in LIMITS.items():
        allowed = getattr(fit, name)
        if allowed is None:
            continue
        value = limit.value(trial) if confidence is None else limit.lower_bound(trial, confidence)
        if value > allowed:
            found[name] = value / allowed
    return found


def explain_excess(trial: CandidateTrial, fit: FormatSearch, name: str) -> str:
    """A sentence that says by how much a trial breaks a limit."""
    limit, allowed = LIMITS[name], getattr(fit, name)
    value = limit.value(trial)
    over = value - allowed
    return (
        f"{limit.label} is {format_amount(value, limit.unit)}, "
        f"{format_amount(allowed, limit.unit)} is allowed: "
        f"{format_amount(over, limit.unit)} ({over / allowed:.0%}) too much"
    )


def explain_impossible(trials: Sequence[CandidateTrial], fit: FormatSearch) -> list[str]:
    """Why none of these keeps all limits: each limit that nobody keeps, with who comes nearest.

    Where each limit alone is kept by somebody, the one that comes nearest to keeping all.
    """
    measured = [trial for trial in trials if trial.seconds]
    over = {trial: broken_limits(trial, fit) for trial in measured}
    if not measured or any(not some for some in over.values()):
        return []
    said = []
    for name in LIMITS:
        if all(name in some for some in over.values()):
            nearest = min(measured, key=lambda trial: over[trial][name])
            said.append(f"No format keeps {name}. Nearest is {nearest.candidate}: its "
                        f"{explain_excess(nearest, fit, name)}.")  # fmt: skip
    if said:
        return said
    nearest = min(measured, key=lambda trial: max(over[trial].values()))
    lines = "; its ".join(explain_excess(nearest, fit, name) for name in over[nearest])
    return [f"No format keeps all limits at once. Nearest is {nearest.candidate}: its {lines}."]
