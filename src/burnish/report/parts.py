"""Parts of a page that several rooms show: routes, training curves, classes, examples."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from burnish.core.journal import read_journal
from burnish.core.records import Interval, Scores
from burnish.core.runs import Run
from burnish.report.contents import ClassLine, Curve, ForecastLine, RouteLine, SideBySide

#: How many classes and side-by-side examples a report shows.
_CLASSES, _EXAMPLES = 15, 12


def route_line(route: Mapping[str, Any], scores: Scores) -> RouteLine:
    """One route in the table; `route` is what `--json` prints of it."""
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
    """Training and validation loss, step by step; rewards, where they are what is learnt from."""
    entries = read_journal(training.path / "metrics.jsonl") if training else []
    curves = []
    learnt = "reward" if any("reward" in entry for entry in entries) else "loss"
    for key, name in (
        (learnt, f"training {learnt}"),
        (f"validation_{learnt}", f"validation {learnt}"),
    ):
        some = [entry for entry in entries if key in entry]
        if some:
            steps, values = [e["step"] for e in some], [e[key] for e in some]
            curves.append(Curve(name, steps, values))
    return curves


def hardest_classes(routes: Mapping[str, Scores], judged: str) -> list[ClassLine]:
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


def pick_examples(routes: Mapping[str, Scores], rival: str, judged: str) -> list[SideBySide]:
    """Questions that the judged route put right, those it spoilt, and some that both got wrong."""
    places = range(len(routes[judged].predictions))
    ours, theirs = routes[judged].values, routes[rival].values
    groups = (
        [place for place in places if ours[place] > theirs[place]],
        [place for place in places if ours[place] < theirs[place]],
        [place for place in places if ours[place] == theirs[place] and ours[place] < 1],
    )
    chosen = [
        place for group in groups for place in _evenly_spaced(group, _EXAMPLES // len(groups))
    ]
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


def _evenly_spaced(places: Sequence[int], count: int) -> list[int]:
    """`count` of the places, evenly apart: a file is often sorted by class."""
    if len(places) <= count:
        return list(places)
    return [places[number * len(places) // count] for number in range(count)]


def training_diagnoses(training: Run | None) -> list[str]:
    """What a training run's own figures say went wrong."""
    report = training.read("report.json") if training else {}
    return [f"{found['message']} {found['fix']}" for found in report.get("diagnoses", [])]


def forecast_lines(training: Run | None) -> list[ForecastLine]:
    """What a training run was expected to need, beside what it needed."""
    report = training.read("report.json") if training else {}
    return [ForecastLine(**quantity) for quantity in report.get("forecast", [])]
