"""An index holds what the folders hold: nothing stale, nothing lost, whatever happens."""

import os
import signal
import subprocess
import sys
from multiprocessing import get_context

import pytest

from burnish.core.errors import BadData, BadRecipe, NotFound
from burnish.rag.indexing import build_index
from burnish.rag.locations import index_folder
from burnish.rag.readers import read_document
from burnish.rag.search import open_index
from tests.fixtures.embedder import WIDTH

COUNTS = ("added", "changed", "unchanged", "removed")


def counts(report):
    return tuple(getattr(report, name) for name in COUNTS)


def all_passages(name="docs"):
    store = open_index(name).store
    return store.passages([own for own, _ in store.search_vectors(vector(store), 10_000)])


def vector(store):
    import numpy as np

    return np.ones(WIDTH, dtype=np.float32)


def test_only_what_changed_is_embedded_and_what_is_gone_leaves(folder, index, monkeypatch):
    assert counts(index(folder)) == (3, 0, 0, 0)
    before = {passage.text for passage in all_passages()}
    embedded = []
    from burnish.models.heads.embedder import Embedder

    encode = Embedder.encode
    monkeypatch.setattr(
        Embedder,
        "encode",
        lambda self, texts, **more: embedded.extend(texts) or encode(self, texts),
    )

    assert counts(index(folder)) == (0, 0, 3, 0) and not embedded
    (folder / "money.md").write_text("# Money\n\nA refund takes nine days.\n")
    (folder / "new.txt").write_text("The plug is blue.")
    (folder / "parcels.md").unlink()
    report = index(folder)

    assert counts(report) == (1, 1, 1, 1) and report.passages == len(all_passages()) == 3
    assert embedded == ["Money\n# Money\n\nA refund takes nine days.", "new\nThe plug is blue."]
    after = {passage.text for passage in all_passages()}
    assert "# Money\n\nA refund takes nine days." in after
    assert not any("five days" in text or "lost parcel" in text.lower() for text in after)
    assert "The lamp is green." in str(before & after)


def test_a_file_touched_or_moved_in_time_is_not_embedded_again(folder, index):
    index(folder)
    os.utime(folder / "money.md", (1, 1))

    assert counts(index(folder)) == (0, 0, 3, 0)


def test_without_a_source_the_last_ones_are_taken(folder, index):
    index(folder)
    (folder / "new.txt").write_text("The plug is blue.")

    assert counts(build_index([], "docs")) == (1, 0, 3, 0)
    with pytest.raises(BadRecipe, match="Nothing is named"):
        build_index([], "other")


def test_offsets_slice_the_passage_out_of_its_source(folder, index):
    (folder / "long.md").write_text("# Long\r\n\r\n" + "One sentence of six short words. " * 40)
    index(folder, chunk_tokens=20)

    passages = all_passages()
    assert len(passages) > 12
    for passage in passages:
        text = read_document(folder / passage.file).text
        assert text[passage.start : passage.end] == passage.text
    raw = (folder / "long.md").read_bytes().decode()
    long = [passage for passage in passages if passage.file.endswith("long.md")]
    assert all(raw[passage.start : passage.end] == passage.text for passage in long)


def test_a_broken_file_is_skipped_by_name_and_the_others_come_in(folder, index):
    index(folder)
    (folder / "broken.jsonl").write_text('{"a": ')
    (folder / "money.md").write_bytes(b"\xff\xff")
    (folder / "photo.png").write_bytes(b"x")
    (folder / ".hidden.md").write_text("secret")

    report = index(folder)

    assert counts(report) == (0, 0, 2, 1), "what it said before is stale"
    assert [file.rpartition("/")[2] for file, _ in report.skipped] == ["broken.jsonl", "money.md"]
    assert "broken.jsonl, line 1" in report.as_text() and "1 .png" in report.as_text()
    assert not any("refund" in passage.text for passage in all_passages())


@pytest.mark.parametrize("content", [{}, {"a.bin": b"x"}, {"a.md": b"\xff"}, {"a.md": b""}])
def test_an_empty_folder_or_one_that_cannot_be_read_leaves_no_index(tmp_path, index, content):
    for name, some in content.items():
        (tmp_path / name).write_bytes(some)

    with pytest.raises(BadData):
        index(tmp_path)

    assert not index_folder("docs").exists()


def test_what_is_not_there_or_cannot_be_a_name_is_refused(folder, index):
    with pytest.raises(NotFound, match="nowhere"):
        index(folder / "nowhere")
    for name in ("../up", "", ".hidden", "a/b"):
        with pytest.raises(BadRecipe):
            index(folder, name=name)
    with pytest.raises(BadRecipe, match="causal"):
        build_index([folder], "other", {"embedder": "tiny"})
    with pytest.raises(BadRecipe, match="exceed the limit of tiny-embedder"):
        index(folder, name="other", chunk_tokens=300)
    assert not index_folder("other").exists()


def test_an_index_is_not_mixed_from_two_ways_of_making_it(folder, index):
    index(folder)

    with pytest.raises(BadRecipe, match="chunk_tokens 200"):
        index(folder, chunk_tokens=50)
    assert counts(index(folder)) == (0, 0, 3, 0)


KILLED = """
import os, sys
from pathlib import Path
from burnish.rag.indexing import build_index
from burnish.rag.sqlite import SqliteStore
from burnish.rag import indexing
indexing._BLOCK = 1
put_down, done = SqliteStore.replace, []
def replace(self, *what):
    put_down(self, *what)
    done.append(1)
    if len(done) == 5:
        print("halfway", flush=True)
        sys.stdin.read()
SqliteStore.replace = replace
build_index([Path(sys.argv[1])], "docs", {"embedder": "tiny-embedder"})
"""


def test_a_killed_indexing_goes_on_where_it_stood(tmp_path, index, embedder_folder, workspace):
    root = tmp_path / "many"
    root.mkdir()
    for number in range(12):
        (root / f"{number:02}.md").write_text(f"# Page {number}\n\nThe code is {number}.\n")
    environment = os.environ | {
        "BURNISH_MODELS": str(embedder_folder), "BURNISH_HOME": str(workspace),
    }  # fmt: skip
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(root)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert killed.stdout.readline() == "halfway\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    assert not open_index("docs").store.facts()["complete"]
    assert len(all_passages()) == 5, "what is in is whole and can be searched"
    report = index(root)

    assert counts(report) == (7, 0, 5, 0) and open_index("docs").store.facts()["complete"]
    assert sorted(passage.text for passage in all_passages()) == sorted(
        f"# Page {number}\n\nThe code is {number}." for number in range(12)
    )


def test_a_document_is_replaced_whole_or_not_at_all(folder, index):
    index(folder)
    store = open_index("docs").store
    before = {passage.text for passage in all_passages()}
    file = next(iter(store.digests()))
    passages = all_passages()

    with pytest.raises(ValueError, match="zip"):
        store.replace(file, "new", passages, [vector(store)])

    assert {passage.text for passage in all_passages()} == before
    assert store.digests()[file] != "new"


def test_a_damaged_index_says_so(folder, index):
    index(folder)
    (index_folder("docs") / "index.db").write_bytes(b"no database at all" * 100)
    for leftover in index_folder("docs").glob("index.db-*"):
        leftover.unlink()

    with pytest.raises(BadData, match="not an index"):
        open_index("docs")


def test_two_indexings_at_once_end_in_one_whole_index(folder, index):
    # Forked, since loading a model in two threads at once is more than transformers can do.
    both = [get_context("fork").Process(target=index, args=(folder,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)

    assert [process.exitcode for process in both] == [0, 0]
    assert counts(index(folder)) == (0, 0, 3, 0) and len(all_passages()) == 5
