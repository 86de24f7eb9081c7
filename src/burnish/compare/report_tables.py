"""The small tables of a comparison's report."""

from collections.abc import Mapping
from typing import Any

from burnish.core.number_format import duration, gain_interval, interval, money, points, share
from burnish.core.number_format import name as spelt
from burnish.core.records import Interval
from burnish.report.contents import ReportTable


def report_tables(result: Mapping[str, Any]) -> list[ReportTable]:
    """Return the tables that have content; `result` is the comparison as JSON."""
    return [table for table in (make(result) for make in _TABLES) if table.lines]


def _ceiling(result: Mapping[str, Any]) -> ReportTable:
    coverage = {name: Interval(**estimate) for name, estimate in result["covered"].items()}
    return ReportTable(
        "How far to the teacher",
        ("Route", "Share of the distance", "Interval"),
        [
            (
                spelt(name),
                share(estimate.value),
                f"{share(estimate.low)} to {share(estimate.high)}",
            )
            for name, estimate in coverage.items()
        ],
        "0% is no better than the plain prompt, 100% as good as the teacher, which is a ceiling "
        "and no candidate: the verdict leaves it out. Its latency, where it is elsewhere, is that "
        "of several requests at once.",
    )


def _types(result: Mapping[str, Any]) -> ReportTable:
    types = {
        kind: {route: Interval(**one) for route, one in scores.items()}
        for kind, scores in result["types"].items()
    }
    routes = [route["name"] for route in result["routes"]]
    lines = [(spelt(route), *(_cell(scores.get(route)) for scores in types.values()))
             for route in routes]  # fmt: skip
    leads = [result["leads"].get(kind) for kind in types]
    if any(leads):
        lines.append(("Best", *(spelt(lead["route"]) if lead else "–" for lead in leads)))
        lines.append(("Ahead of the next by", *map(_lead_text, leads)))
    return ReportTable(
        "By type of question",
        (
            "Route",
            *(f"{kind}: {_question_count(scores)} questions" for kind, scores in types.items()),
        ),
        lines if types else [],
        "Each cell with its own interval, not widened for the number of cells. The best was found "
        "by looking; the gain over the next route is paired, question by question, and where its "
        "interval holds 0 the order of the two isn't settled.",
    )


def _cell(estimate: Interval | None) -> str:
    return f"{share(estimate.value)} ({interval(estimate)})" if estimate else "–"


def _question_count(scores: Mapping[str, Interval]) -> int:
    return max(estimate.n for estimate in scores.values())


def _lead_text(lead: Mapping[str, Any] | None) -> str:
    if not lead:
        return "–"
    gain = Interval(**lead["gain"])
    text = f"{points(gain.value)} over {spelt(lead['rival'])} ({gain_interval(gain)})"
    return text if gain.low > 0 else f"{text}, not settled"


def _judge(result: Mapping[str, Any]) -> ReportTable:
    judge = result["judge"]
    if not judge:
        return ReportTable("", (), (), "")
    grades = judge["grades"]
    counts = zip(grades, judge["confusion"], strict=True)
    return ReportTable(
        f"Who graded: {judge['name']}, a model",
        ("People say", *(f"It says {grade}" for grade in grades)),
        [(grade, *(str(count) for count in line)) for grade, line in counts if any(line)],
        f"{judge['words']} The required kappa was {judge['least_kappa']:.2f} (0 is chance "
        "agreement, 1 perfect agreement). The judge saw one answer at a time beside the "
        "reference, and not whose it was.",
    )


def _costs(result: Mapping[str, Any]) -> ReportTable:
    costs, currency = result["costs"], result["currency"]
    if not costs:
        return ReportTable("", (), (), "")
    is_dearer = costs["tokens_of_rival"] > costs["tokens"]
    unpaid = "can't be told from these times" if is_dearer else "never"
    paid = unpaid if costs["break_even"] is None else f"{costs['break_even']:,} requests"
    return ReportTable(
        "What it costs",
        ("", "Amount"),
        [
            ("Price of an hour of this machine", money(costs["price_per_hour"], currency)),
            (
                f"Training, {duration(costs['training_seconds'])}",
                money(costs["training"], currency),
            ),
            *(
                (f"1,000 requests, {spelt(route['name'])}", money(route["cost_per_1000"], currency))
                for route in result["routes"]
            ),
            (f"The training has paid, beside {spelt(costs['rival'])}", paid),
        ],
        f"{costs['words']} The machine is assumed to be fully used; an idle one costs the same.",
    )


def _expectations(result: Mapping[str, Any]) -> ReportTable:
    return ReportTable(
        "Rules of thumb, before and after",
        ("Expected before measuring", "Because", "Measured"),
        [(rule["says"], rule["because"], rule["outcome"]) for rule in result["expected"]],
        "Confirmed or contradicted means beyond chance, question by question; open, that this "
        "many questions can't tell. Two rules can't be read off the data, and both favour "
        "retrieval: facts that change often, and answers that must cite their source.",
        is_text=True,
    )


_TABLES = (_judge, _types, _expectations, _ceiling, _costs)
