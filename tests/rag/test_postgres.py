"""The same index on PostgreSQL with pgvector: what folders do, the server does."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from burnish.cli.main import app
from burnish.core.errors import BadData, BadRecipe, NotFound, Unavailable
from burnish.rag.indexing import build_index
from burnish.rag.locations import index_locations
from burnish.rag.postgres import PostgresStore, drop_postgres, list_postgres
from burnish.rag.search import open_index
from burnish.rag.sqlite import SqliteStore
from burnish.rag.store import Passage
from tests.fixtures import postgres


@pytest.fixture(scope="module")
def server():
    """The URL of a PostgreSQL that has pgvector."""
    with postgres.with_pgvector() as programs:
        if programs is None:
            pytest.skip("pgvector is not installed (pip install pgserver)")
        with postgres.cluster(programs) as url:
            yield url


@pytest.fixture
def url(server, monkeypatch):
    """The same, empty and named as the place of indexes."""
    monkeypatch.setenv("BURNISH_INDEXES", server)
    yield server
    for name in list_postgres(server):
        drop_postgres(server, name)


def put(store, file, *texts, vectors):
    passages = [Passage(file, "T", ("T", "H"), 3, 0, len(text), text) for text in texts]
    store.replace(file, "digest", passages, np.asarray(vectors, dtype=np.float32))


def test_an_index_is_made_searched_and_renewed_there(url, folder, index):
    report = index(folder)
    assert report.passages == 5 and "schema burnish_docs" in report.path
    assert "burnish@" not in report.path, "no user, no password"

    found = open_index("docs").search("lost parcel", k=5)
    best = next(item for item in found if item.by_words == 1)
    assert best.passage.source == "parcels.md: Parcels > Lost (characters 39 to 76)"
    (folder / "money.md").write_text("# Money\n\nA refund takes nine days.\n")
    (folder / "parcels.md").unlink()
    report = build_index([], "docs")

    assert (report.added, report.changed, report.unchanged, report.removed) == (0, 1, 1, 1)
    texts = [item.passage.text for item in open_index("docs").search("refund days", k=9)]
    assert "# Money\n\nA refund takes nine days." in texts and len(texts) == report.passages == 2
    assert index_locations().names() == ["docs"]
    with pytest.raises(NotFound, match="there are: docs"):
        open_index("other")


def test_both_stores_find_the_same_by_meaning(url, tmp_path):
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(300, 70)).astype(np.float32)
    stores = SqliteStore(tmp_path / "index.db"), PostgresStore(url, "docs")
    for store in stores:
        for n in range(30):
            texts = [f"text {m} of {n}" for m in range(10)]
            put(store, f"{n}.txt", *texts, vectors=vectors[10 * n : 10 * n + 10])
        store.remove(["7.txt"])

    for asked in vectors[:50:10]:
        for files in (None, {"3.txt", "9.txt"}):
            one, other = (store.search_vectors(asked, 12, files) for store in stores)
            assert [own for own, _ in one] == [own for own, _ in other]
            assert [s for _, s in one] == pytest.approx([s for _, s in other], rel=1e-4)
    ids = [own for own, _ in stores[0].search_vectors(vectors[0], 5)]
    assert stores[0].passages(ids) == stores[1].passages(ids)
    assert stores[0].count() == stores[1].count() == 290


def test_words_are_stems_of_any_text(url):
    store = PostgresStore(url, "docs")
    texts = ["two green lamps", "a red plug", "odd \x00 and \ud800 text"]
    put(store, "a.txt", *texts, vectors=np.ones((3, 4)))

    assert [own for own, _ in store.search_words("Which LAMP?", 9)] == [1]
    assert store.search_words("lamp", 9, {"b.txt"}) == []
    assert (
        store.search_words("\"quotes' | & !( the", 9) == []
        and store.search_words("?!\x00", 9) == []
    )
    assert store.passages([3])[0].text == "odd � and � text"


def test_a_document_is_replaced_whole_or_not_at_all(url):
    store = PostgresStore(url, "docs")
    assert store.search_vectors(np.ones(4, np.float32), 3) == [] and store.facts() == {}
    put(store, "a.txt", "a green lamp", vectors=np.ones((1, 4)))

    with pytest.raises(ValueError, match="zip"):
        put(store, "a.txt", "a red lamp", "a blue lamp", vectors=np.ones((1, 4)))

    assert store.search_words("lamp", 9) and store.passages([1])[0].text == "a green lamp"
    other = PostgresStore(url, "other")
    assert other.count() == 0, "another index is another schema"


def test_what_goes_wrong_is_told(url, folder, index, monkeypatch, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.md").write_bytes(b"\xff")
    with pytest.raises(BadData):
        index(tmp_path / "bad")
    assert index_locations().names() == [], "nothing is left"
    for name in ("a/b", "x" * 60):
        with pytest.raises(BadRecipe):
            index(folder, name=name)
    monkeypatch.setenv("BURNISH_INDEXES", "postgresql://secret@127.0.0.1:1/none")
    with pytest.raises(Unavailable, match="can't be reached"):
        open_index("docs")
    monkeypatch.setenv("BURNISH_INDEXES", "mysql://host/name")
    with pytest.raises(BadRecipe, match="mysql"):
        open_index("docs")


def test_the_words_work_there(url, folder, tiny_embedder):
    made = ["index", str(folder), "--name", "docs", "--embedder", tiny_embedder.name, "--json"]
    assert json.loads(CliRunner().invoke(app, made).stdout)["passages"] == 5
    shown = CliRunner().invoke(app, ["search", "docs", "a lost parcel", "-k", "1"])
    assert shown.exit_code == 0 and shown.stdout.startswith("1. ")
