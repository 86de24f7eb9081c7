"""Asking and scoring: every answer counts once, in the order of the rows."""

import os
import shlex
import signal
import subprocess
import sys
import time

import psutil
import pytest

from burnish.core.errors import PromptTooLong
from burnish.core.recipe.data import Task
from burnish.core.recipe.evaluate import Evaluate
from burnish.evaluate.latency import measure_latencies, middle
from burnish.evaluate.scoring import (
    PromptSet,
    evaluate,
    load_predictions,
    perplexity,
    save_predictions,
    summary,
)
from burnish.evaluate.tasks import as_prompt
from tests.stubs.rule_engine import RuleEngine, row

TASK = Task(kind="classification", labels=("even", "odd"))
ROWS = [row(str(n), "odd" if n % 2 else "even", line=n) for n in range(40)]


def asked(rows=ROWS):
    return PromptSet(rows, [as_prompt(one, TASK, 8) for one in rows])


def test_a_majority_rule_has_the_majoritys_accuracy_and_a_worse_macro_f1():
    scores = evaluate(RuleEngine(lambda prompt: "even"), asked(), TASK, Evaluate())

    assert scores.interval.value == 0.5 and scores.interval.n == 40
    assert scores.extra["macro_f1"] == pytest.approx(1 / 3)
    assert [item.row for item in scores.predictions] == [one.id for one in ROWS]
    assert scores.values == [1.0, 0.0] * 20


def test_a_right_rule_is_right_and_its_interval_still_leaves_room():
    rule = RuleEngine(lambda prompt: "odd" if int(prompt.messages[-1].content) % 2 else "even")

    interval = evaluate(rule, asked(), TASK, Evaluate()).interval

    assert interval.value == 1 and interval.low < 0.95


def test_predictions_are_read_back_as_they_were_written(tmp_path):
    odd = [row("line\nbreak \u2028 and 'quotes'", "even", 1), row("η γάτα", "odd", 2)]
    scores = evaluate(RuleEngine(lambda prompt: "a\u2028b\r\n"), asked(odd), TASK, Evaluate())

    save_predictions(tmp_path / "predictions.jsonl", scores.predictions)

    assert load_predictions(tmp_path / "predictions.jsonl") == list(scores.predictions)


def test_a_prompt_that_is_too_long_is_named_by_its_row():
    rows = [*ROWS[:3], row("word " * 50, "odd", line=77)]
    engine = RuleEngine(lambda prompt: "odd", context_length=40)

    with pytest.raises(PromptTooLong, match=r"rows\.jsonl:77"):
        evaluate(engine, asked(rows), TASK, Evaluate())


def test_perplexity_is_that_of_the_answers_tokens():
    assert perplexity(RuleEngine(lambda prompt: ""), ROWS) == pytest.approx(2)


def test_latency_is_measured_on_a_few_prompts_spread_over_all_each_alone():
    engine = RuleEngine(lambda prompt: "odd")

    timing = measure_latencies(engine, asked().prompts)

    assert len(timing.seconds) == 16 and min(timing.seconds) > 0
    said = [prompt.messages[-1].content for prompt in engine.asked]
    assert len(said) == len(set(said)) == 17, "the one that warms up is none of those that count"
    assert 0 <= timing.busy <= 1


def test_a_machine_that_other_programs_keep_busy_is_said_to_be_busy():
    def waits(prompt):
        time.sleep(0.05)
        return "odd"

    work = [sys.executable, "-c", "while True: pass"]
    # Not a child of this process: a child may be an engine's, whose work is its own.
    begun = subprocess.run(
        ["sh", "-c", f"{shlex.join(work)} >/dev/null 2>&1 & echo $!"],
        capture_output=True,
        text=True,
    )
    try:
        busy = measure_latencies(RuleEngine(waits), asked().prompts)
    finally:
        os.kill(int(begun.stdout), signal.SIGKILL)

    # One program that runs all the time uses one of the processors.
    assert busy.busy >= 0.5 / psutil.cpu_count()


def test_a_median_of_few_times_is_as_uncertain_as_they_are():
    assert (middle([3.0, 1.0, 2.0], 0.95).low, middle([3.0, 1.0, 2.0], 0.95).high) == (1.0, 3.0)
    found = middle([n / 100 for n in range(100)], 0.95)
    assert 0.3 < found.low < found.value < found.high < 0.7


def test_a_summary_has_the_fields_that_scripts_read():
    scores = evaluate(RuleEngine(lambda prompt: "even"), asked(), TASK, Evaluate())
    line = summary("base", scores, [0.1, 0.2, 0.3])

    assert {"name", "metric", "value", "ci", "n", "tokens_in", "tokens_out"} <= set(line)
    assert line["latency_p50_s"] == pytest.approx(0.2) and line["latency_p95_s"] <= 0.3
    assert line["ci"][0] < line["value"] < line["ci"][1]


def test_what_is_scored_is_what_was_said_and_the_thought_is_kept(tmp_path):
    rule = RuleEngine(lambda prompt: "<think>\nodd?\n</think>\n\neven")

    scores = evaluate(rule, asked(ROWS[:1]), TASK, Evaluate())

    (found,) = scores.predictions
    assert (found.answer, found.thought, found.score) == ("even", "odd?", 1.0)
