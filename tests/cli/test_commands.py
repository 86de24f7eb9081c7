"""The words as a stranger types them: real processes, a tiny model, right and wrong inputs."""

import json
import os

import pytest

from tests.fixtures.worker_process import run_words

ROWS = [
    {"text": f"{thing} {action} {n}", "label": label}
    for n in range(20)
    for thing, action, label in (
        ("my lamp", "is broken and dark", "repair"),
        ("a parcel", "never came to me", "delivery"),
    )
]


@pytest.fixture
def burnish(tiny_folder, tmp_path):
    """Run a command in a folder of its own; returns the finished process."""

    def run(*words, codes=(0,)):
        environment = os.environ | {
            "BURNISH_MODELS": str(tiny_folder),
            "BURNISH_HOME": str(tmp_path / "home"),
            "OMP_NUM_THREADS": "1",
        }
        done = run_words(*words, environment=environment, folder=tmp_path)
        assert done.returncode in codes, done.stdout + done.stderr
        return done

    return run


def test_the_whole_job_on_a_tiny_model(burnish, write_rows, tmp_path):
    file = write_rows("rows.jsonl", ROWS)
    fast = ["--set", "train.max_steps=6", "--set", "train.learning_rate=1e-2"]
    fast += ["--set", "data.near_duplicate=1.0"]

    checked = json.loads(burnish("check", file, "--model", "tiny", "--json", *fast[4:]).stdout)
    assert checked["ok"] and checked["rows"] == 40
    trained = json.loads(
        burnish("train", "--train", file, "--model", "tiny", "--json", *fast).stdout
    )
    assert trained["steps"] == 6 and trained["peak_memory_bytes"] > 0

    done = json.loads(
        burnish("compare", "--train", file, "--model", "tiny", "--json", *fast, codes=(0, 1)).stdout
    )
    names = [route["name"] for route in done["routes"]]
    assert names == ["base", "few_shot", "fine_tuned"]
    assert {"metric", "value", "ci", "n", "p_value", "latency_p50_s"} <= set(done["routes"][0])
    assert done["verdict"]["decision"] in ("ship", "dont_fine_tune", "not_enough_evidence")

    runs = json.loads(burnish("runs", "--json").stdout)
    assert done["run"] in [run["run"] for run in runs]
    said = burnish("chat", done["run"], "-m", "my lamp is dark", "--max-new-tokens", "4")
    assert said.returncode == 0
    page = tmp_path / "home" / "runs" / done["run"] / "report.html"
    assert "Verdict:" in page.read_text()
    scored = json.loads(
        burnish("evaluate", "--train", file, "--model", "tiny", "--source", done["run"], "--json",
                *fast[4:]).stdout
    )  # fmt: skip
    tuned = next(route for route in done["routes"] if route["name"] == "fine_tuned")
    assert scored["value"] == tuned["value"] and scored["perplexity"] > 1


def test_a_train_that_is_resumed_ends_where_the_first_would(burnish, write_rows):
    file = write_rows("rows.jsonl", ROWS)
    words = ["--train", file, "--model", "tiny", "--json", "--set", "train.max_steps=3"]
    first = json.loads(burnish("train", *words).stdout)

    again = json.loads(burnish("train", "--resume", first["run"], "--json").stdout)

    assert again["losses"] == first["losses"] and again["artifact"] == first["artifact"]


def test_check_answers_no_with_rows_and_fixes(burnish, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "completion": ""}\nnot json\n')

    done = json.loads(burnish("check", "bad.jsonl", "--json", codes=(1,)).stdout)

    assert not done["ok"]
    by_code = {finding["code"]: finding for finding in done["findings"]}
    assert by_code["broken_json"]["rows"] == [2] and by_code["empty_answer"]["rows"] == [1]
    assert all(finding["fix"] for finding in done["findings"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["check", "none.jsonl"], "is not a file"),
        (["init", "."], "is not an empty folder"),
        (["init", "new", "--example", "nothing"], "Known names: support-desk"),
        (["train"], "No data is named"),
        (["train", "none.yaml"], "cannot be read"),
        (["train", "--train", "rows.jsonl", "--model", "no-such"], "burnish pull no-such"),
        (["train", "--train", "rows.jsonl", "--set", "train.epohcs=1"], "Did you mean `epochs`"),
        (["train", "--train", "bad.jsonl", "--model", "tiny"], "is not JSON"),
        (["train", "--resume", "nothing"], "no run `nothing`"),
        (["pull", "no-such-model"], "Known names"),
        (["chat", "nothing"], "burnish pull nothing"),
        (["evaluate", "--train", "rows.jsonl", "--source", "nothing"], "burnish pull nothing"),
        (["serve", "nothing"], "burnish pull nothing"),
        (["serve", "tiny", "--alias", "nonsense"], "NAME=MODEL"),
        (["compare", "--train", "rows.jsonl", "--test", "rows.jsonl", "--model", "tiny"], "twice"),
        (["frobnicate"], "No such command"),
    ],
)
def test_wrong_use_is_one_clear_error_and_leaves_nothing(
    burnish, write_rows, tmp_path, words, says
):
    write_rows("rows.jsonl", ROWS)
    (tmp_path / "bad.jsonl").write_text("{not json}\n")

    done = burnish(*words, codes=(2,))

    assert says in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "home" / "runs").exists()
    assert not list(tmp_path.rglob("*.tmp"))
