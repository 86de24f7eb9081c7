"""Files and folders are whole or absent."""

import signal
import subprocess
import sys
import time

import pytest

from burnish.core.atomic import atomic_folder, hash_file, hash_json, write_atomic
from burnish.core.errors import AlreadyThere


def test_a_folder_appears_only_when_its_block_succeeds(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "model") as draft:
        (draft / "weights").write_text("half")
        raise RuntimeError

    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_before_any_work(tmp_path):
    (tmp_path / "model").mkdir()

    with pytest.raises(AlreadyThere), atomic_folder(tmp_path / "model"):
        pytest.fail("the block ran")


def test_a_replaced_folder_holds_only_the_new_files(tmp_path):
    for name in ("old", "new"):
        with atomic_folder(tmp_path / "model", replace=True) as draft:
            (draft / name).write_text(name)

    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["new"]


def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new_file(tmp_path):
    file = tmp_path / "state.json"
    write_atomic(file, "0" * 100_000)
    program = (
        "import sys, itertools; from pathlib import Path\n"
        "from burnish.core.atomic import write_atomic\n"
        "for n in itertools.count():\n"
        "    write_atomic(Path(sys.argv[1]), str(n % 10) * 100_000); print(n, flush=True)"
    )
    for wait in (0.01, 0.02, 0.05):
        words = [sys.executable, "-c", program, str(file)]
        child = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"0\n", "it writes"
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.communicate()

        content = file.read_text()
        assert len(content) == 100_000 and len(set(content)) == 1


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    (tmp_path / "state.json").mkdir()

    with pytest.raises(OSError):
        write_atomic(tmp_path / "state.json", "new")

    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_hashes_depend_on_content_alone(tmp_path):
    (tmp_path / "a").write_text("same")
    (tmp_path / "b").write_text("same")

    assert hash_file(tmp_path / "a") == hash_file(tmp_path / "b")
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
