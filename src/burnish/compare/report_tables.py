"""What a comparison's report shows in small tables."""

from collections.abc import Mapping
from typing import Any

from burnish.core.number_format import duration, gain_interval, interval, money, points, share
from burnish.core.number_format import name as spelt
from burnish.core.records import Interval
from burnish.report.contents import ReportTable


def report_tables(result: Mapping[str, Any]) -> list[ReportTable]:
    """The tables that this comparison has something to put into; `result` is it as JSON."""
    return [table for table in (make(result) for make in _TABLES) if table.lines]


def _ceiling(result: Mapping[str, Any]) -> ReportTable:
    found = {name: Interval(**one) for name, one in result["covered"].items()}
    return ReportTable(
        "How far to the teacher",
        ("Route", "Share of the distance", "Interval"),
        [
            (spelt(name), share(one.value), f"{share(one.low)} to {share(one.high)}")
            for name, one in found.items()
        ],
        "0% is no better than the plain prompt, 100% as good as the teacher, which is a ceiling "
        "and no candidate: the verdict leaves it out. Its latency, where it is elsewhere, is that "
        "of several requests at once.",
    )


def _types(result: Mapping[str, Any]) -> ReportTable:
    types = {
        kind: {route: Interval(**one) for route, one in found.items()}
        for kind, found in result["types"].items()
    }
    routes = [route["name"] for route in result["routes"]]
    lines = [(spelt(route), *(_cell(found.get(route)) for found in types.values()))
             for route in routes]  # fmt: skip
    leads = [result["leads"].get(kind) for kind in types]
    if any(leads):
        lines.append(("Best", *(spelt(lead["route"]) if lead else "–" for lead in leads)))
        lines.append(("Ahead of the next by", *map(_lead_text, leads)))
    return ReportTable(
        "By type of question",
        (
            "Route",
            *(f"{kind}: {_question_count(found)} questions" for kind, found in types.items()),
        ),
        lines if types else [],
        "Each cell with its own interval, not widened for the number of cells. The best was found "
        "by looking; the gain over the next route is paired, question by question, and where its "
        "interval holds 0 the order of the two isn't settled.",
    )


def _cell(found: Interval | None) -> str:
    return f"{share(found.value)} ({interval(found)})" if found else "–"


def _question_count(found: Mapping[str, Interval]) -> int:
    return max(one.n for one in found.values())


def _lead_text(lead: Mapping[str, Any] | None) -> str:
    if not lead:
        return "–"
    gain = Interval(**lead["gain"])
    told = f"{points(gain.value)} over {spelt(lead['rival'])} ({gain_interval(gain)})"
    return told if gain.low > 0 else f"{told}, not settled"


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
        f"{judge['words']} Asked for was a kappa of {judge['least_kappa']:.2f} (0 is what chance "
        "gives, 1 that they always agree). It saw one answer at a time beside the reference, and "
        "not whose it was.",
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
        f"{costs['words']} The machine is taken to be busy; an idle one costs the same hour.",
    )


def _expectations(result: Mapping[str, Any]) -> ReportTable:
    return ReportTable(
        "Rules of thumb, before and after",
        ("Expected before measuring", "Because", "Measured"),
        [(one["says"], one["because"], one["outcome"]) for one in result["expected"]],
        "Confirmed or contradicted means by more than luck, question by question; open, that this "
        "many questions can't tell. Two rules can't be read off the data, and both speak for "
        "retrieval: facts that change often, and answers that must name their source.",
        is_text=True,
    )


_TABLES = (_judge, _types, _expectations, _ceiling, _costs)
