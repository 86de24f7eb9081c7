"""Parts of a page that several rooms show: routes, training curves, classes, examples."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from burnish.core.journal import read_journal
from burnish.core.records import Interval, Scores
from burnish.core.runs import Run
from burnish.report.contents import ClassLine, Curve, ForecastLine, RouteLine, SideBySide

#: Number of classes and side-by-side examples in a report.
_CLASSES, _EXAMPLES = 15, 12


def route_line(route: Mapping[str, Any], scores: Scores) -> RouteLine:
    """Return one route of the table; `route` is its `--json` form."""
    gain = route["gain"]
    return RouteLine(
        name=route["name"],
        metric=route["metric"],
        score=scores.interval,
        extra=scores.extra,
        gain=Interval(**gain) if isinstance(gain, dict) else gain,
        p_value=route["p_value"],
        latency_p50_s=route["latency_p50_s"],
        latency_p95_s=route["latency_p95_s"],
        tokens_in=route["tokens_in"],
        tokens_out=route["tokens_out"],
        cost_per_1000=route["cost_per_1000"],
        memory_bytes=route["memory_bytes"],
    )


def training_curves(training: Run | None) -> list[Curve]:
    """Return training and validation loss by step, or rewards for reinforcement learning."""
    entries = read_journal(training.path / "metrics.jsonl") if training else []
    curves = []
    quantity = "reward" if any("reward" in entry for entry in entries) else "loss"
    for key, name in (
        (quantity, f"training {quantity}"),
        (f"validation_{quantity}", f"validation {quantity}"),
    ):
        logged = [entry for entry in entries if key in entry]
        if logged:
            steps, values = [e["step"] for e in logged], [e[key] for e in logged]
            curves.append(Curve(name, steps, values))
    return curves


def hardest_classes(routes: Mapping[str, Scores], judged: str) -> list[ClassLine]:
    """Return the classes on which the judged route does worst, worst first."""
    by_class: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, scores in routes.items():
        for item in scores.predictions:
            by_class[item.expected][name].append(item.score)
    lines = [
        ClassLine(
            label,
            len(values_by_route[judged]),
            {name: sum(values) / len(values) for name, values in values_by_route.items()},
        )
        for label, values_by_route in by_class.items()
    ]
    return sorted(lines, key=lambda line: (line.scores[judged], -line.n, line.name))[:_CLASSES]


def pick_examples(routes: Mapping[str, Scores], rival: str, judged: str) -> list[SideBySide]:
    """Return questions that the judged route got right, those it spoilt, and some that both got
    wrong."""
    indices = range(len(routes[judged].predictions))
    judged_scores, rival_scores = routes[judged].values, routes[rival].values
    groups = (
        [index for index in indices if judged_scores[index] > rival_scores[index]],
        [index for index in indices if judged_scores[index] < rival_scores[index]],
        [
            index
            for index in indices
            if judged_scores[index] == rival_scores[index] and judged_scores[index] < 1
        ],
    )
    chosen = [
        index for group in groups for index in _evenly_spaced(group, _EXAMPLES // len(groups))
    ]
    return [
        SideBySide(
            row=routes[judged].predictions[index].row,
            prompt=routes[judged].predictions[index].prompt,
            expected=routes[judged].predictions[index].expected,
            answers={name: scores.predictions[index].answer for name, scores in routes.items()},
            scores={name: scores.predictions[index].score for name, scores in routes.items()},
        )
        for index in chosen
    ]


def _evenly_spaced(indices: Sequence[int], count: int) -> list[int]:
    """Return `count` of the indices, evenly spaced: a file is often sorted by class."""
    if len(indices) <= count:
        return list(indices)
    return [indices[number * len(indices) // count] for number in range(count)]


def training_diagnoses(training: Run | None) -> list[str]:
    """Return what a training run's metrics say went wrong."""
    report = training.read("report.json") if training else {}
    return [
        f"{diagnosis['message']} {diagnosis['fix']}" for diagnosis in report.get("diagnoses", [])
    ]


def forecast_lines(training: Run | None) -> list[ForecastLine]:
    """Return a training run's forecast beside the actual values."""
    report = training.read("report.json") if training else {}
    return [ForecastLine(**quantity) for quantity in report.get("forecast", [])]
