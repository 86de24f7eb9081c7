"""How small may the student be? One teacher, students of several sizes, one table and one plot.

    burnish train benchmarks/banking77.yaml                       the teacher, if there is none yet
    python benchmarks/distill_frontier.py RUN --rows 800 --questions 200 --out frontier
                                                                  an hour and more on 2 cores

The recipe is `benchmarks/distill_banking77.yaml`; RUN is a run on the same data. Writes
`frontier.json` and `frontier.svg`: accuracy with its interval against the memory of the weights
(or `--across latency`), the share of the teacher's quality kept, inference time and memory saved,
beside the 92 %, 85 % and 95 % that the method is known for. `--rows 0` and `--questions 0` take
all. Killed, the same command goes on: answers, trainings and measurements are all kept.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from burnish.core.atomic import write_atomic, write_json
from burnish.core.progress import LineReporter, say, set_reporter
from burnish.core.recipe.recipe import Recipe, load_recipe, make_recipe
from burnish.distill.report import DistillationResult
from burnish.distill.run import distill
from burnish.models.find_artifact import find_artifact
from burnish.report.plots import Scale, step_of, ticks_of

RECIPE = Path(__file__).with_name("distill_banking77.yaml")
DECODER, ENCODER = "smollm2-135m-instruct", "all-minilm-l6-v2"
#: What the method is known for: shares of quality kept, inference time saved, memory saved.
KNOWN_FOR = {"quality": 0.92, "time": 0.85, "memory": 0.95}
#: A head from nothing needs some steps, however few the rows are.
LEAST_STEPS, EPOCHS, BATCH = 200, 4, 32


@dataclass(frozen=True)
class Student:
    """What a student begins as: a model, whole or cut to some of its layers, neurons, heads and
    word pieces."""

    model: str
    layers: int | None = None
    neurons: float | None = None
    heads: int | None = None
    pieces: int | None = None

    @property
    def writes(self) -> bool:
        """Whether it learns the teacher's distributions; the others learn its labels."""
        return self.model == DECODER


STUDENTS = {
    "decoder-30": Student(DECODER),
    "decoder-20": Student(DECODER, 20),
    "decoder-10": Student(DECODER, 10),
    "decoder-30-narrow": Student(DECODER, neurons=0.5, heads=2),
    "decoder-20-narrow": Student(DECODER, 20, neurons=0.75, heads=2),
    "encoder-6": Student(ENCODER),
    "encoder-6-narrow": Student(ENCODER, neurons=0.5),
    "encoder-3": Student(ENCODER, 3),
    "encoder-2": Student(ENCODER, 2),
    "encoder-6-pieces": Student(ENCODER, pieces=6_000),
    "encoder-3-pieces": Student(ENCODER, 3, pieces=4_000),
    "encoder-2-pieces": Student(ENCODER, 2, pieces=3_000),
}


def recipe_for(student: Student, teacher: str, rows: int, questions: int) -> Recipe:
    """The recipe of one student. A decoder is cut from the teacher, if that is one of its kind."""
    recipe = load_recipe(RECIPE)
    artifact = find_artifact(teacher)
    is_kin = student.writes and artifact is not None and artifact.base == student.model
    changes = [
        f"model.name={student.model}",
        f"distill.teacher.model={teacher}",
        f"distill.layers={student.layers or 'null'}",
        f"distill.neurons={student.neurons or 'null'}",
        f"distill.heads={student.heads or 'null'}",
        f"distill.vocab_size={student.pieces or 'null'}",
        f"distill.layers_of={'teacher' if is_kin else 'model'}",
        f"data.max_rows={rows or 'null'}",
        f"evaluate.max_rows={questions or 'null'}",
    ]
    if not student.writes:
        steps = math.ceil((rows or 9_600) / BATCH)
        epochs = max(EPOCHS, math.ceil(LEAST_STEPS / steps))
        changes += [
            "train.objective=classify", "train.method=full", "train.learning_rate=3e-4",
            f"train.epochs={epochs}", f"train.batch_size={BATCH}",
        ]  # fmt: skip
    return make_recipe(recipe.model_dump(mode="json"), changes)


def line_of(name: str, result: DistillationResult) -> dict[str, Any]:
    """One student as the table and the plot show it."""
    found = result.as_dict()
    own = {route["name"]: route for route in found["routes"]}["distilled"]
    saved = found["saved"]
    passed = {
        "quality": saved["quality"]["value"] >= KNOWN_FOR["quality"],
        "time": saved["time"] is not None and saved["time"]["value"] >= KNOWN_FOR["time"],
        "memory": saved["memory"] is not None and saved["memory"] >= KNOWN_FOR["memory"],
    }
    return {**_facts(name, own), "run": result.run.id, "saved": saved, "as_known_for": passed}


def teacher_of(name: str, result: DistillationResult) -> dict[str, Any]:
    """The teacher, as it was measured beside a student."""
    routes = {route["name"]: route for route in result.as_dict()["routes"]}
    return _facts(name, routes["teacher"])


def _facts(name: str, route: Mapping[str, Any]) -> dict[str, Any]:
    low, high = route["ci"]
    return {
        "name": name,
        "accuracy": [route["value"], low, high],
        "questions": route["n"],
        "memory_bytes": route["memory_bytes"],
        "latency_p50_s": route["latency_p50_s"],
        "latency_p95_s": route["latency_p95_s"],
    }


def table_of(found: Mapping[str, Any]) -> str:
    """Markdown: one line a student, the teacher last."""
    lines = [
        "| model | accuracy (95 %) | quality kept | time saved | memory saved | p50 | MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in (*found["students"], found["teacher"]):
        saved = one.get("saved")
        shares = ["", "", ""]
        if saved:
            shares = [_span(saved["quality"]), _span(saved["time"]), f"{saved['memory']:.1%}"]
        value, low, high = one["accuracy"]
        cells = [
            one["name"], f"{value:.1%} ({low:.1%} to {high:.1%})", *shares,
            f"{1000 * one['latency_p50_s']:.0f} ms", f"{one['memory_bytes'] / 1e6:.0f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _span(share: Mapping[str, float] | None) -> str:
    return f"{share['value']:.1%} ({share['low']:.1%} to {share['high']:.1%})" if share else ""


#: What lies across the plot: of a line its value, how a mark is written, and what the axis is.
ACROSS: dict[str, tuple[str, float, str]] = {
    "memory": ("memory_bytes", 1e-6, "MB of weights"),
    "latency": ("latency_p50_s", 1e3, "ms an answer asked alone (p50)"),
}
WIDTH, HEIGHT = 640, 360


def plot_of(found: Mapping[str, Any], across: str) -> str:
    """Accuracy upwards, size or latency across (logarithmic), the teacher as a line: an SVG."""
    field, unit, words = ACROSS[across]
    students, teacher = found["students"], found["teacher"]
    values = [math.log10(one[field] * unit) for one in (*students, teacher)]
    lowest = min(one["accuracy"][1] for one in (*students, teacher))
    step = step_of(max(1 - lowest, 0.05), 5)
    bottom = math.floor(lowest / step) * step
    x = Scale(min(values) - 0.15, max(values) + 0.15, 56, WIDTH - 24)
    y = Scale(bottom, 1.0, HEIGHT - 48, 20)
    parts = [_text(WIDTH / 2, HEIGHT - 10, words, "middle")]
    for tick in ticks_of(bottom, 1.0, step):
        parts.append(_line(56, y.at(tick), WIDTH - 24, y.at(tick), "#ddd"))
        parts.append(_text(50, y.at(tick) + 4, f"{tick:.0%}", "end"))
    for mark in _decades(x.low, x.high):
        parts.append(_text(x.at(math.log10(mark)), HEIGHT - 28, f"{mark:g}", "middle"))
    level = y.at(teacher["accuracy"][0])
    parts.append(_line(56, level, WIDTH - 24, level, "#b5541c", "6 4"))
    parts.append(_text(60, level - 6, f"teacher {teacher['name']}", "start", "#b5541c"))
    names = []
    for one in (*students, teacher):
        place, colour = x.at(math.log10(one[field] * unit)), "#1c5d99"
        if one is teacher:
            colour = "#b5541c"
        value, low, high = (y.at(max(number, bottom)) for number in one["accuracy"])
        parts.append(_line(place, low, place, high, colour))
        parts.append(f'<circle cx="{place}" cy="{value}" r="4" fill="{colour}"/>')
        if one is not teacher:
            names.append(_text(place + 7, value + 14, one["name"], "start", colour))
    body = "\n".join([*parts, '<g paint-order="stroke" stroke="white" stroke-width="4">', *names])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" '
        f'fill="white"/>\n{body}\n</g>\n</svg>\n'
    )


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two logarithms."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    marks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [mark for mark in marks if low <= math.log10(mark) <= high]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}"{dashed}/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#333") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{text}</text>'


def frontier(teacher: str, names: Sequence[str], rows: int, questions: int) -> dict[str, Any]:
    """Every student, distilled and measured."""
    lines = []
    for name in names:
        result = distill(recipe_for(STUDENTS[name], teacher, rows, questions))
        lines.append(line_of(name, result))
        say(json.dumps(lines[-1]))
    students = {name: asdict(STUDENTS[name]) for name in names}
    artifact = find_artifact(teacher)
    shown = f"{artifact.base}, fine-tuned" if artifact else teacher
    return {
        "rows": rows,
        "known_for": KNOWN_FOR,
        "began_as": students,
        "teacher": teacher_of(shown, result),
        "students": lines,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("teacher", help="a run on BANKING77")
    parser.add_argument("--rows", type=int, default=800, help="of the training rows; 0: all")
    parser.add_argument("--questions", type=int, default=200, help="of the test; 0: all")
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--across", choices=ACROSS, default="memory")
    parser.add_argument("--out", type=Path, default=Path("frontier"), help="without an ending")
    options = parser.parse_args()
    set_reporter(LineReporter())
    found = frontier(options.teacher, options.students, options.rows, options.questions)
    write_json(options.out.with_suffix(".json"), found)
    write_atomic(options.out.with_suffix(".svg"), plot_of(found, options.across))
    print(table_of(found))


if __name__ == "__main__":
    main()
