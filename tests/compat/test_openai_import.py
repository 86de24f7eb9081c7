"""Jobs that were trained at OpenAI are trained again here, and old answers compared with new."""

import json
import os
import subprocess
import sys

import pytest

from burnish.compat.openai_import import import_openai, read_export
from burnish.core.errors import BadData
from tests.fixtures import fine_tuning_server as tuning
from tests.write_docs import ROOT

OLD = "ft:gpt-4o-mini-2024-07-18:acme:desk:abc12345"


def job(name, **settings):
    """A job as the hosted API returns it."""
    return {
        "object": "fine_tuning.job",
        "id": name,
        "status": "succeeded",
        "model": "gpt-4o-mini-2024-07-18",
        "fine_tuned_model": OLD,
        "training_file": "file-train",
        "validation_file": None,
        "seed": 3,
        "hyperparameters": {"n_epochs": 6, "batch_size": 4, "learning_rate_multiplier": 6.0},
        "method": {"type": "supervised"},
        **settings,
    }


def completion(number, asked, answered):
    """A stored completion with its messages."""
    return {
        "object": "chat.completion",
        "id": f"chatcmpl-{number}",
        "model": OLD,
        "messages": [{"role": "user", "content": asked, "id": f"msg-{number}"}],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": answered}}],
    }


@pytest.fixture
def saved(tmp_path):
    """A folder with these jobs, their rows, and sixty answers of the old model."""

    def build(*jobs):
        folder = tmp_path / "saved"
        folder.mkdir()
        (folder / "jobs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in jobs))
        (folder / "file-train.jsonl").write_bytes(tuning.rows(40))
        asked = [f"{one} {two} late" for one in tuning.WORDS for two in tuning.WORDS[:6]]
        stored = [completion(n, one, "my parcel") for n, one in enumerate(asked)]
        stored[0]["metadata"] = {"note": "a separator\u2028within a text"}
        text = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in stored)
        (folder / "completions.jsonl").write_text(text)
        return folder

    return build


def test_a_job_is_trained_with_its_own_numbers_and_answers_as_the_old_model_did(
    saved, tiny, tmp_path
):
    folder = saved(
        job("ftjob-1"),
        job("ftjob-2", status="failed", fine_tuned_model=None),
        job("ftjob-3", method={"type": "reinforcement"}),
        job("ftjob-4", training_file="file-gone"),
        job("ftjob-5", status="failed", training_file="file-broken"),
        job("ftjob-6", validation_file="file-broken"),
        job("ftjob-7", training_file="file-binary"),
    )
    (folder / "file-broken.jsonl").write_text("{oops")
    (folder / "file-binary.jsonl").write_bytes(b"\xff\xfe\x00")

    result = import_openai(folder, tiny.name, tmp_path / "run")

    (done,) = result.replayed
    assert (done.job, done.old, done.questions) == ("ftjob-1", OLD, 60)
    assert done.hyperparameters == {
        "n_epochs": 6, "batch_size": 4, "learning_rate_multiplier": 6.0,
    }  # fmt: skip
    # So small a model learns what to say and not when to stop.
    assert done.new > 0.25 > done.base and done.gain.gain.low > 0, done
    assert done.same == 0
    broken = result.skipped["ftjob-6"]
    assert "file-broken.jsonl is not JSON" in broken
    binary = result.skipped["ftjob-7"]
    assert "file-binary.jsonl is not text in UTF-8" in binary
    assert result.skipped == {
        "ftjob-2": "it ended as failed",
        "ftjob-3": "its grader is not in the export",
        "ftjob-4": "file-gone is not in the folder",
        "ftjob-5": "it ended as failed",
        "ftjob-6": broken,
        "ftjob-7": binary,
    }
    assert f"--alias {OLD}={done.run}" in result.as_text()
    golden = (tmp_path / "run" / "golden-ftjob-1.jsonl").read_text().splitlines()
    assert json.loads(golden[0])["messages"][-1] == {"role": "assistant", "content": "my parcel"}
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == result.as_dict()


def test_repeated_it_trains_nothing_again(saved, tiny, workspace):
    folder = saved(job("ftjob-1"))
    first = import_openai(folder, tiny.name).replayed[0]
    weights = workspace / "runs" / first.run / "artifact" / "adapter_model.safetensors"
    before = weights.stat().st_mtime_ns

    again = import_openai(folder, tiny.name).replayed[0]

    assert again == first and weights.stat().st_mtime_ns == before


def test_jobs_may_come_as_one_list(saved):
    folder = saved()
    listed = {"object": "list", "data": [job("ftjob-1"), job("ftjob-2")]}
    (folder / "jobs.json").write_text(json.dumps(listed, indent=2))

    assert [one["id"] for one in read_export(folder).jobs] == ["ftjob-1", "ftjob-2"]


@pytest.mark.parametrize(
    ("held", "said"),
    [(b"", "no fine-tuning jobs"), (b"{oops", "not JSON"), (b"\xff\xfe", "not text in UTF-8")],
)
def test_a_folder_without_jobs_is_refused_before_a_run_is_begun(
    tmp_path, tiny, workspace, held, said
):
    (tmp_path / "jobs.jsonl").write_bytes(held)

    with pytest.raises(BadData, match=said):
        import_openai(tmp_path, tiny.name)
    assert not (workspace / "runs").exists()


def test_what_the_example_saves_from_a_server_can_be_read(server, finished, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "openai_export.py", tmp_path],
        capture_output=True, text=True,
        env={**os.environ, "OPENAI_BASE_URL": server.address, "OPENAI_API_KEY": tuning.KEY},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    found = read_export(tmp_path)

    own = next(one for one in found.jobs if one["id"] == finished.id)
    assert own["hyperparameters"] == finished.hyperparameters.to_dict()
    assert found.files[finished.training_file].read_bytes().count(b"\n") == 20
    assert finished.validation_file in found.files
