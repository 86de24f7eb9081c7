"""`burnish distill` as a process of its own: stopped by the gate, and killed in the middle."""

import json
import os
import signal
import time

import pytest

from burnish.core.journal import read_journal
from tests.distill.test_run import label_of
from tests.fixtures.tickets import tickets
from tests.fixtures.worker_process import Program, words
from tests.stubs.teacher import fails

CONCURRENCY = 3


@pytest.fixture
def begin(tiny_folder, write_rows, stub, tmp_path):
    """Begin a distillation of 120 questions with the stub as its teacher; returns the process."""
    train = write_rows("train.jsonl", [{"prompt": row["text"]} for row in tickets(120, 5)])
    test = write_rows("test.jsonl", tickets(30, 6))
    stub.answer = label_of
    said = [
        "distill", "--train", train, "--test", test, "--model", "tiny", "--teacher", "big",
        "--out", tmp_path / "run", "--json",
    ]  # fmt: skip
    settings = (
        f"distill.teacher.endpoint={stub.url}", f"distill.teacher.concurrency={CONCURRENCY}",
        "distill.teacher.retries=0", "data.near_duplicate=1.0", "train.max_steps=40",
        "train.learning_rate=1e-2", "train.threads=1",
    )  # fmt: skip
    said += [word for setting in settings for word in ("--set", setting)]
    environment = os.environ | {"BURNISH_MODELS": str(tiny_folder), "OMP_NUM_THREADS": "1"}
    return lambda: Program(words(*said), environment)


def test_a_teacher_that_fails_too_often_is_a_no_with_a_sentence(begin, stub, tmp_path):
    stub.fault = fails(0.4)

    process = begin()
    out, said = process.communicate(timeout=300)

    assert process.returncode == 1 and not out
    assert "success_ratio asks for 70%" in said and "repeat the command" in said
    assert "Traceback" not in said
    kept = [x for x in read_journal(tmp_path / "run" / "requests.jsonl") if not x["error"]]
    assert f"All {len(kept)} answers are kept" in said and kept


def test_killed_in_the_middle_it_asks_no_answered_question_twice(begin, stub, tmp_path):
    stub.delay = 0.01
    first = begin()
    deadline = time.monotonic() + 60
    while sum(stub.asked.values()) < 40 and time.monotonic() < deadline:
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    time.sleep(0.1)
    kept = len(read_journal(tmp_path / "run" / "requests.jsonl"))
    asked = sum(stub.asked.values())
    assert 0 < kept < 120, "it died in the middle"

    second = begin()
    out, said = second.communicate(timeout=300)

    assert second.returncode == 0, said
    report = json.loads(out)
    # What was on its way when the process died was never heard of, so only that is asked again.
    assert asked - kept <= CONCURRENCY
    twice = [text for text, count in stub.asked.items() if count > 1]
    assert len(twice) <= asked - kept
    assert report["teacher"]["known_before"] == kept
    assert report["rows"]["train"] + report["rows"]["validation"] == 120
    lines = (tmp_path / "run" / "teacher.jsonl").read_text().splitlines()
    assert len({json.loads(line)["row"] for line in lines}) == 120
