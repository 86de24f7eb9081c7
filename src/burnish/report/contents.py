"""The contents of a report as plain records; `report.page` renders them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from burnish.core.records import Finding, Interval


@dataclass(frozen=True, slots=True)
class RouteLine:
    """One route in the table. Costs are per request; `p_value` is against the incumbent route."""

    name: str
    metric: str
    score: Interval
    extra: Mapping[str, float]
    gain: Interval | None
    p_value: float | None
    latency_p50_s: float
    latency_p95_s: float
    tokens_in: float
    tokens_out: float
    cost_per_1000: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of the training plot: optimizer steps and a value at each."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class SideBySide:
    """One test row as each route answered it."""

    row: str
    prompt: str
    expected: str
    answers: Mapping[str, str]
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ClassLine:
    """One class (or kind of error) with its score by route."""

    name: str
    n: int
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ForecastLine:
    """One forecast quantity with its interval, and its actual value."""

    name: str
    unit: str
    low: float
    expected: float
    high: float
    actual: float | None


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A small table with a title above and a note below. The first column names the line; `is_text`
    if the other columns are text too, not numbers."""

    title: str
    heads: Sequence[str]
    lines: Sequence[Sequence[str]]
    note: str
    is_text: bool = False


@dataclass(frozen=True, slots=True)
class ReportContents:
    """Everything that `report.html` shows; gains in the table of routes are over the `incumbent`,
    and intervals have the level `confidence`."""

    title: str
    decision: str
    headline: str
    paragraph: str
    routes: Sequence[RouteLine]
    incumbent: str = "base"
    confidence: float = 0.95
    currency: str = "USD"
    tables: Sequence[ReportTable] = ()
    curves: Sequence[Curve] = ()
    diagnoses: Sequence[str] = ()
    classes: Sequence[ClassLine] = ()
    examples: Sequence[SideBySide] = ()
    findings: Sequence[Finding] = ()
    forecast: Sequence[ForecastLine] = ()
    forgetting: Sequence[RouteLine] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    reproduce: str = ""
