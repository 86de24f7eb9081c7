"""A comparison as the contents of its report."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from burnish.core.journal import read_journal
from burnish.core.records import Interval, Scores
from burnish.core.runs import Run, versions
from burnish.data.load import Dataset
from burnish.report.contents import (
    ClassLine,
    Contents,
    Curve,
    ForecastLine,
    RouteLine,
    SideBySide,
)

#: How many classes and side-by-side examples a report shows.
_CLASSES, _EXAMPLES = 15, 12


def contents_of(
    result: Mapping[str, Any],
    routes: Mapping[str, Scores],
    dataset: Dataset,
    training: Run | None,
    command: str,
) -> Contents:
    """What the report shows; `result` is the comparison as JSON."""
    verdict = result["verdict"]
    first = next(iter(routes.values()))
    inferred = result["inferred"]
    facts = {
        "Task": str(inferred["task"]),
        "Metric": first.metric,
        "Test questions": str(first.interval.n),
        "Smallest gain that this test size sees": f"{100 * verdict['visible']:.1f} points",
        "Training run": str(result["training"] or "none"),
    }
    facts |= {f"Data, {number}": note for number, note in enumerate(inferred["notes"], start=1)}
    if result["forgetting"]:
        facts["Forgetting"] = result["forgetting"]["words"]
    return Contents(
        title=f"Was fine-tuning worth it? {result['run']}",
        decision=verdict["decision"],
        headline=verdict["headline"],
        paragraph=verdict["reason"],
        routes=[_line(route, routes[route["name"]]) for route in result["routes"]],
        currency=result["currency"],
        curves=_curves(training),
        diagnoses=_diagnoses(training),
        classes=_classes(routes, _judged(result)) if inferred["task"] == "classification" else (),
        examples=_examples(routes, verdict["rival"], _judged(result)),
        findings=dataset.findings,
        forecast=_forecast(training),
        forgetting=_forgetting(result),
        facts=facts,
        hashes={**dataset.hashes, **versions()},
        reproduce=command,
    )


def _judged(result: Mapping[str, Any]) -> str:
    """The route that the page looks into: the fine-tune, or the best one without it."""
    return str(result["verdict"]["judged"] or result["verdict"]["winner"])


def _line(route: Mapping[str, Any], scores: Scores) -> RouteLine:
    gain = route["gain"]
    return RouteLine(
        name=route["name"],
        metric=route["metric"],
        score=scores.interval,
        extra=scores.extra,
        gain=Interval(**gain) if gain else None,
        p_value=route["p_value"],
        latency_p50_s=route["latency_p50_s"],
        latency_p95_s=route["latency_p95_s"],
        tokens_in=route["tokens_in"],
        tokens_out=route["tokens_out"],
        cost_per_1000=route["cost_per_1000"],
        memory_bytes=route["memory_bytes"],
    )


def _curves(training: Run | None) -> list[Curve]:
    entries = read_journal(training.path / "metrics.jsonl") if training else []
    curves = []
    for key, name in (("loss", "training loss"), ("validation_loss", "validation loss")):
        some = [entry for entry in entries if key in entry]
        if some:
            steps, values = [e["step"] for e in some], [e[key] for e in some]
            curves.append(Curve(name, steps, values))
    return curves


def _classes(routes: Mapping[str, Scores], judged: str) -> list[ClassLine]:
    """The classes on which the judged route does worst, worst first."""
    by_class: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, scores in routes.items():
        for item in scores.predictions:
            by_class[item.expected][name].append(item.score)
    lines = [
        ClassLine(
            label,
            len(found[judged]),
            {name: sum(values) / len(values) for name, values in found.items()},
        )
        for label, found in by_class.items()
    ]
    return sorted(lines, key=lambda line: (line.scores[judged], -line.n, line.name))[:_CLASSES]


def _examples(routes: Mapping[str, Scores], rival: str, judged: str) -> list[SideBySide]:
    """Questions that the judged route put right, those it spoilt, and some that both got wrong."""
    places = range(len(routes[judged].predictions))
    ours, theirs = routes[judged].values, routes[rival].values
    groups = (
        [place for place in places if ours[place] > theirs[place]],
        [place for place in places if ours[place] < theirs[place]],
        [place for place in places if ours[place] == theirs[place] and ours[place] < 1],
    )
    chosen = [place for group in groups for place in _spread(group, _EXAMPLES // len(groups))]
    return [
        SideBySide(
            row=routes[judged].predictions[place].row,
            prompt=routes[judged].predictions[place].prompt,
            expected=routes[judged].predictions[place].expected,
            answers={name: scores.predictions[place].answer for name, scores in routes.items()},
            scores={name: scores.predictions[place].score for name, scores in routes.items()},
        )
        for place in chosen
    ]


def _spread(places: Sequence[int], count: int) -> list[int]:
    """`count` of the places, evenly apart: a file is often sorted by class."""
    if len(places) <= count:
        return list(places)
    return [places[number * len(places) // count] for number in range(count)]


def _diagnoses(training: Run | None) -> list[str]:
    report = training.read("report.json") if training else {}
    return [f"{found['message']} {found['fix']}" for found in report.get("diagnoses", [])]


def _forecast(training: Run | None) -> list[ForecastLine]:
    report = training.read("report.json") if training else {}
    return [ForecastLine(**quantity) for quantity in report.get("forecast", [])]


def _forgetting(result: Mapping[str, Any]) -> list[RouteLine]:
    found = result["forgetting"]
    if not found:
        return []
    empty: dict[str, Any] = {
        "extra": {}, "gain": None, "p_value": None, "latency_p50_s": 0.0, "latency_p95_s": 0.0,
        "tokens_in": 0.0, "tokens_out": 0.0, "cost_per_1000": 0.0, "memory_bytes": 0,
    }  # fmt: skip
    return [
        RouteLine(name=name, metric="general questions", score=Interval(**found[key]), **empty)
        for name, key in (("base", "before"), (_judged(result), "after"))
    ]
