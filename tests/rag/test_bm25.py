"""The words as a stranger types them: index, search, ask."""

import json
import os

import pytest
from typer.testing import CliRunner

from burnish.cli.main import app
from burnish.core.errors import BadData, NotFound
from tests.fixtures.worker_process import run_words

PASSAGE = {
    "file", "title", "headings", "page", "start", "end", "text", "score", "similarity",
    "by_meaning", "by_words", "relevance",
}  # fmt: skip


def burnish(*words):
    """What a word prints; its error, if it has one, is raised as `main` would get it."""
    done = CliRunner().invoke(app, ["-q", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_index_search_ask(folder, tiny_embedder):
    (folder / "broken.pdf").write_bytes(b"%PDF")
    made = ["index", folder, "--name", "docs", "--embedder", tiny_embedder.name]
    report = json.loads(burnish(*made, "--json"))
    assert set(report) == {
        "name", "path", "added", "changed", "unchanged", "removed", "passages", "skipped",
        "not_read", "unknown_scripts", "word_ranked", "note",
    }  # fmt: skip
    assert report["added"] == 3 and report["passages"] == 5
    assert report["skipped"][0]["file"].endswith("broken.pdf") and report["skipped"][0]["reason"]
    assert "3 as before" in burnish("index", "--name", "docs")

    found = json.loads(burnish("search", "docs", "a lost parcel", "-k", 2, "--json"))
    assert len(found["passages"]) == 2 and set(found["passages"][0]) == PASSAGE
    shown = burnish("search", "docs", "a lost parcel", "-k", 1, "--files", "par*")
    assert shown.startswith("1. parcels.md: Parcels") and "(characters " in shown

    asked = ["ask", "tiny", "How long does a refund take?", "--index", "docs", "-k", 2]
    reply = json.loads(burnish(*asked, "--json", "--max-new-tokens", 8, "--least-similarity", -1))
    assert (
        set(reply) == {"answer", "known", "support", "supported", "citations"}
        and len(reply["citations"]) == 2
    )
    assert set(reply["citations"][0]) == {"number", "cited", *PASSAGE}
    assert burnish(*asked, "--least-similarity", 1) == "I don't know.\n"


def test_what_is_missing_is_told_with_what_to_do(tmp_path, tiny_embedder):
    (tmp_path / "empty").mkdir()
    made = ["index", tmp_path / "empty", "--name", "docs"]

    with pytest.raises(BadData, match=r"no document(.|\n)*\.docx"):
        burnish(*made, "--embedder", tiny_embedder.name)
    with pytest.raises(NotFound, match=r"no index `docs`(.|\n)*burnish index FOLDER"):
        burnish("search", "docs", "anything")
    with pytest.raises(NotFound, match="no index `docs`"):
        burnish("ask", "tiny", "why?", "--index", "docs")
    (tmp_path / "empty" / "a.txt").write_text("text")
    with pytest.raises(NotFound, match="burnish pull nothing"):
        burnish(*made, "--embedder", "nothing")


def test_progress_and_what_was_skipped_go_to_stderr(folder, embedder_folder, workspace):
    (folder / "broken.pdf").write_bytes(b"%PDF")
    environment = os.environ | {
        "BURNISH_MODELS": str(embedder_folder), "BURNISH_HOME": str(workspace),
    }  # fmt: skip

    done = run_words(
        "index", folder, "--name", "docs", "--embedder", "tiny-embedder", environment=environment
    )

    assert done.returncode == 0

    assert "Skipped" in done.stderr and "broken.pdf is corrupt" in done.stderr
    assert "Indexing: 100%" in done.stderr
    assert "Skipped" in done.stdout and "3 files in 5 passages" in done.stdout
