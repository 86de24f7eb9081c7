"""The report is one file, escapes what it is given, and fits a phone."""

import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.core import number_format as numbers
from burnish.core.records import Finding, Interval
from burnish.report.contents import (
    ClassLine,
    Curve,
    ForecastLine,
    ReportContents,
    RouteLine,
    SideBySide,
)
from burnish.report.page import DECISION_SIGNS, render, write_report
from burnish.report.plots import curve_plot

HOSTILE = "<script>alert('x')</script> & \"quotes\""


def route(name, value, gain=None):
    return RouteLine(
        name=name, metric="accuracy", score=Interval(value, value - 0.08, value + 0.08, 104),
        extra={"macro_f1": value - 0.02}, gain=gain, p_value=None if gain is None else 0.0004,
        latency_p50_s=0.099, latency_p95_s=0.677, tokens_in=77, tokens_out=2,
        cost_per_1000=0.0053, memory_bytes=538_060_032,
    )  # fmt: skip


def contents(**changes):
    gain = Interval(0.385, 0.262, 0.491, 104)
    full = {
        "title": f"Was it worth it? {HOSTILE}",
        "decision": "ship",
        "headline": "Ship the fine-tune.",
        "paragraph": f"Because {HOSTILE}.",
        "routes": [route("base", 0.144), route("few_shot", 0.125), route("fine_tuned", 0.53, gain)],
        "curves": [
            Curve("training loss", list(range(1, 61)), [9 / n for n in range(1, 61)]),
            Curve("validation loss", [20, 40, 60], [0.8, 0.5, 0.6]),
        ],
        "classes": [ClassLine(HOSTILE, 13, {"base": 0.0, "fine_tuned": 0.5})],
        "examples": [
            SideBySide("f:1", HOSTILE * 30, "x" * 300, {"base": HOSTILE, "fine_tuned": ""},
                       {"base": 0.0, "fine_tuned": 1.0})
        ],
        "findings": [Finding("near_duplicate", "note", "/a/rows.csv", (1, 2), "Nearly.", "Keep.")],
        "forecast": [
            ForecastLine("peak memory", "bytes", 1.9e9, 2e9, 2.2e9, 2.1e9),
            ForecastLine("training time", "seconds", 60, 90, 140, None),
        ],
        "forgetting": [route("base", 0.46), route("fine_tuned", 0.64)],
        "facts": {"Task": "classification", "Forgetting": "On 50 questions."},
        "hashes": {"/home/me/rows.csv": "ab" * 32},
        "reproduce": "burnish compare triage.yaml",
    }  # fmt: skip
    return ReportContents(**{**full, **changes})


def test_everything_that_comes_from_data_is_escaped():
    page = render(contents())

    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_page_needs_nothing_from_outside():
    page = render(contents())

    assert not re.search(r"https?://|@import|url\(|<link|<img|<script", page)


@pytest.mark.parametrize("decision", DECISION_SIGNS)
def test_every_decision_has_its_sign(decision):
    assert f"Verdict: {DECISION_SIGNS[decision][1]}" in render(contents(decision=decision))


def test_what_is_empty_is_left_out():
    empty = dict.fromkeys(
        ("curves", "classes", "examples", "findings", "forecast", "forgetting"), ()
    )
    page = render(contents(**empty))

    for head in ("Training", "Hardest classes", "Side by side", "Findings", "Forecast and"):
        assert f"<h2>{head}" not in page
    assert "<h2>Routes" in page


def test_a_route_that_was_asked_less_says_so_and_the_level_is_the_recipe_s():
    few = route("base", 0.144)
    few = replace(few, score=replace(few.score, n=22))

    page = render(contents(routes=[few, route("fine_tuned", 0.53)], confidence=0.9))

    assert "22 questions</span>" in page and "those that were given up early" in page
    assert "on the same 104 frozen questions; the bar is the 90% interval" in page
    whole = render(contents())
    assert "given up" not in whole and "the bar is the 95% interval" in whole


def test_right_and_wrong_are_said_in_words():
    page = render(contents())

    assert ">wrong</span>" in page and ">right</span>" in page


def test_numbers_read_like_numbers():
    assert numbers.share(0.8341) == "83.4%" and numbers.points(-0.0123) == "−1.2"
    assert numbers.duration(0.412) == "412 ms" and numbers.duration(3661) == "1 h 01 min"
    assert numbers.size(271_000_000) == "271 MB" and numbers.size(1.24e9) == "1.2 GB"
    assert numbers.p_value(0.00001) == "< 0.001" and numbers.p_value(None) == "–"
    assert numbers.money(0.0053, "USD") == "0.0053 USD" and numbers.money(0, "USD") == "0.00 USD"


@given(st.floats(0, 1e13))
def test_a_size_and_a_duration_always_have_a_unit(value):
    assert re.fullmatch(r"\d+(\.\d)? (B|kB|MB|GB)", numbers.size(value))
    assert re.search(r"(ms|s|min)$", numbers.duration(value))


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_its_window_in_a_real_browser(tmp_path, width):
    """An iframe of the width, since headless Chromium's own window is never narrower than 500."""
    browser = shutil.which("chromium")
    assert browser, "install Debian's package chromium"
    write_report(contents(), tmp_path / "report.html")
    frame = f"<iframe id=f width={width} height=900 src=report.html style=border:0></iframe>"
    script = (
        "<script>onload=()=>{const d=document.getElementById('f').contentDocument.documentElement;"
        "document.title=d.scrollWidth+'/'+d.clientWidth}</script>"
    )
    (tmp_path / "frame.html").write_text(frame + script)

    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--allow-file-access-from-files",
         f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=3000", "--dump-dom",
         (tmp_path / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    found = re.search(r"<title>(\d+)/(\d+)</title>", done.stdout)
    assert found, done.stdout[:300]
    assert int(found[1]) <= int(found[2]) <= width


def test_the_best_reward_is_the_highest():
    curves = [Curve("training reward", [1, 2, 3], [0.1, 0.5, 0.4]),
              Curve("validation reward", [1, 2, 3], [0.2, 0.6, 0.5])]  # fmt: skip

    plot = curve_plot(curves)

    assert plot.rises and {line.best[2] for line in plot.lines} == {"0.500", "0.600"}
