"""The report contents of a comparison."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from burnish.compare.report_tables import report_tables
from burnish.compare.verdict import fully_measured, seeds_in_words, stopped_early_in_words
from burnish.core.records import Interval, Scores
from burnish.core.runs import Run, versions
from burnish.data.load import Dataset
from burnish.report.contents import ReportContents, RouteLine, SideBySide
from burnish.report.parts import (
    forecast_lines,
    hardest_classes,
    pick_examples,
    route_line,
    training_curves,
    training_diagnoses,
)


def comparison_contents(
    result: Mapping[str, Any],
    routes: Mapping[str, Scores],
    dataset: Dataset,
    training: Run | None,
    command: str,
) -> ReportContents:
    """Return the report's contents; `result` is the comparison as JSON."""
    verdict = result["verdict"]
    complete = fully_measured(routes)
    first = next(iter(complete.values()))
    inferred = result["inferred"]
    facts = {
        "Task": str(inferred["task"]),
        "Metric": first.metric,
        "Test questions": str(first.interval.n),
        "Smallest gain that this test size detects": f"{100 * verdict['visible']:.1f} points",
        "Training run": str(result["training"] or "none"),
    }
    facts |= {f"Data, {number}": note for number, note in enumerate(inferred["notes"], start=1)}
    if result["given_up"]:
        facts["Given up"] = stopped_early_in_words(result["given_up"])
    if result["seeds"]:
        facts["Seeds"] = seeds_in_words(result["seeds"])
    if result["forgetting"]:
        facts["Forgetting"] = result["forgetting"]["words"]
    return ReportContents(
        title=f"Was fine-tuning worth it? {result['run']}",
        decision=verdict["decision"],
        headline=verdict["headline"],
        paragraph=verdict["reason"],
        routes=[route_line(route, routes[route["name"]]) for route in result["routes"]],
        confidence=result["confidence"],
        currency=result["currency"],
        tables=report_tables(result),
        curves=training_curves(training),
        diagnoses=training_diagnoses(training),
        classes=hardest_classes(complete, _judged_route(result))
        if inferred["task"] == "classification"
        else (),
        examples=_examples(routes, verdict["rival"], _judged_route(result)),
        findings=dataset.findings,
        forecast=forecast_lines(training),
        forgetting=_forgetting(result),
        facts=facts,
        hashes={**dataset.hashes, **versions()},
        reproduce=command,
    )


def _examples(routes: Mapping[str, Scores], rival: str, judged: str) -> list[SideBySide]:
    """Return questions side by side; only those that the rival was asked, if it was given up."""
    complete = fully_measured(routes)
    if rival in complete:
        return pick_examples(complete, rival, judged)
    rows = {prediction.row for prediction in routes[rival].predictions}
    selected = {
        name: replace(
            scores,
            predictions=[prediction for prediction in scores.predictions if prediction.row in rows],
        )
        for name, scores in routes.items()
    }
    return pick_examples(fully_measured(selected), rival, judged)


def _judged_route(result: Mapping[str, Any]) -> str:
    """Return the route that the page details: the fine-tune, or the best one without it."""
    return str(result["verdict"]["judged"] or result["verdict"]["winner"])


def _forgetting(result: Mapping[str, Any]) -> list[RouteLine]:
    forgetting = result["forgetting"]
    if not forgetting:
        return []
    empty: dict[str, Any] = {
        "extra": {}, "gain": None, "p_value": None, "latency_p50_s": 0.0, "latency_p95_s": 0.0,
        "tokens_in": 0.0, "tokens_out": 0.0, "cost_per_1000": 0.0, "memory_bytes": 0,
    }  # fmt: skip
    return [
        RouteLine(name=name, metric="general questions", score=Interval(**forgetting[key]), **empty)
        for name, key in (("base", "before"), (_judged_route(result), "after"))
    ]
