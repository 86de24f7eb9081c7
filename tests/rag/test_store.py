"""A store of many passages: near by signs and exact in the end; its words follow its database."""

import shutil
import sqlite3

import numpy as np
import pytest

from burnish.rag.binary_vectors import binarize
from burnish.rag.bm25 import WordIndex
from burnish.rag.sqlite import SqliteStore
from burnish.rag.store import Passage

#: The first layout, as burnish made it: words inside the database, no sign bits.
FIRST_LAYOUT = """
CREATE TABLE facts (value TEXT NOT NULL);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY, file TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, title TEXT NOT NULL
);
CREATE TABLE passages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL REFERENCES documents,
    headings TEXT NOT NULL, page INTEGER, begins INTEGER NOT NULL, ends INTEGER NOT NULL,
    place TEXT NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL
);
CREATE INDEX passages_of_document ON passages (document);
CREATE VIRTUAL TABLE words USING fts5 (
    place, text, content='passages', content_rowid='id', tokenize='porter unicode61'
);
CREATE TRIGGER word_in AFTER INSERT ON passages BEGIN
    INSERT INTO words (rowid, place, text) VALUES (new.id, new.place, new.text);
END;
CREATE TRIGGER word_out AFTER DELETE ON passages BEGIN
    INSERT INTO words (words, rowid, place, text) VALUES ('delete', old.id, old.place, old.text);
END;
"""


def put(store, file, *texts, vectors=None):
    passages = [Passage(file, "", (), None, 0, len(text), text) for text in texts]
    made = np.ones((len(texts), 8), dtype=np.float32) if vectors is None else vectors
    store.replace(file, "digest", passages, made)


def said(store, question, **more):
    return [
        passage.text
        for passage in store.passages([i for i, _ in store.search_words(question, 99, **more)])
    ]


@pytest.fixture
def store(tmp_path):
    return SqliteStore(tmp_path / "index.db")


def test_of_many_vectors_the_nearest_are_found_by_their_signs(store):
    draw = np.random.default_rng(0)
    kinds = draw.normal(size=(40, 100))
    vectors = (kinds[np.arange(4000) % 40] + draw.normal(size=(4000, 100)) * 0.6).astype(np.float32)
    for file in range(40):
        some = vectors[file * 100 : (file + 1) * 100]
        put(store, f"{file}.txt", *(f"text {n}" for n in range(100)), vectors=some)

    for asked in vectors[:200:20]:
        scores = vectors @ asked
        found = store.search_vectors(asked, 20)
        exact = np.argsort(-scores)[:20] + 1
        assert [own for own, _ in found] == exact.tolist()
        assert [score for _, score in found] == pytest.approx(scores[exact - 1].tolist(), rel=1e-5)
        only = store.search_vectors(asked, 5, {"3.txt"})
        assert [own for own, _ in only] == (np.argsort(-scores[300:400])[:5] + 301).tolist()


def test_the_signs_of_a_vector_are_its_bits_filled_up_to_whole_words():
    vectors = np.zeros((2, 70), dtype=np.float32)
    vectors[1, [0, 69]] = 1

    bits = binarize(vectors)

    assert bits.shape == (2, 2) and bits.dtype == np.uint64
    assert np.bitwise_count(bits).sum(axis=1).tolist() == [0, 2]


def test_words_follow_what_comes_and_goes(store, tmp_path):
    put(store, "a.txt", "a green lamp", "a red lamp")
    assert said(store, "lamps") == ["a green lamp", "a red lamp"]
    other = SqliteStore(tmp_path / "index.db")
    put(other, "a.txt", "a blue lamp")
    put(other, "b.txt", "a lamp and a café")

    assert said(store, "lamp") == ["a blue lamp", "a lamp and a café"]
    assert said(store, "cafe", files={"b.txt"}) == ["a lamp and a café"]
    assert said(store, "cafe", files={"a.txt"}) == []
    other.remove(["a.txt", "b.txt"])
    assert said(store, "lamp") == [] and store.search_vectors(np.ones(8, np.float32), 5) == []


def test_words_brought_in_before_a_kill_are_not_there_twice(store, tmp_path, monkeypatch):
    def killed(path, value):
        raise KeyboardInterrupt

    put(store, "a.txt", "a green lamp", "a red lamp")
    with monkeypatch.context() as patched:
        patched.setattr("burnish.rag.bm25.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            store.refresh()
    store.close()

    again = SqliteStore(tmp_path / "index.db")
    assert said(again, "lamp") == ["a green lamp", "a red lamp"]
    put(again, "a.txt", "a blue lamp")
    assert said(again, "lamp") == ["a blue lamp"]


@pytest.mark.parametrize("harm", ["gone", "no state", "broken state", "broken index"])
def test_a_word_index_that_was_harmed_is_made_anew(store, tmp_path, harm):
    put(store, "a.txt", "a green lamp")
    store.refresh()
    store.close()
    words = tmp_path / "words"
    {
        "gone": lambda: shutil.rmtree(words),
        "no state": lambda: (words / "state.json").unlink(),
        "broken state": lambda: (words / "state.json").write_text("{"),
        "broken index": lambda: (words / "index" / "meta.json").write_text("{"),
    }[harm]()

    assert said(SqliteStore(tmp_path / "index.db"), "lamp") == ["a green lamp"]


def test_the_words_of_another_database_are_not_taken_for_these(store, tmp_path):
    put(store, "a.txt", "a green lamp")
    store.refresh()
    store.close()
    for file in tmp_path.glob("index.db*"):
        file.unlink()

    fresh = SqliteStore(tmp_path / "index.db")
    put(fresh, "b.txt", "a red plug")
    assert said(fresh, "lamp plug") == ["a red plug"]


def test_an_index_of_the_first_layout_is_brought_to_this_one(tmp_path):
    draws = np.random.default_rng(0).normal(size=(6, 100)).astype(np.float32)
    old = sqlite3.connect(tmp_path / "index.db")
    old.executescript(FIRST_LAYOUT)
    for n, vector in enumerate(draws):
        if n % 3 == 0:
            file = (n // 3 + 1, f"{n // 3}.txt", "digest", "")
            old.execute("INSERT INTO documents VALUES (?, ?, ?, ?)", file)
        row = (n // 3 + 1, "[]", 0, 4, "", f"lamp {n}", vector.tobytes())
        old.execute(
            "INSERT INTO passages (document, headings, begins, ends, place, text, vector) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            row,
        )
    old.commit()
    old.close()

    store = SqliteStore(tmp_path / "index.db")

    expected = np.argsort(-(draws @ draws[4])) + 1
    assert [own for own, _ in store.search_vectors(draws[4], 6)] == expected.tolist()
    assert said(store, "lamp", files={"1.txt"}) == ["lamp 3", "lamp 4", "lamp 5"]
    put(store, "0.txt", "a red plug", vectors=draws[:1])
    assert "lamp 0" not in said(store, "lamp plug") and "a red plug" in said(store, "lamp plug")
    assert SqliteStore(tmp_path / "index.db").count() == 4


def test_two_word_indexes_in_one_folder_take_turns(store, tmp_path):
    put(store, "a.txt", "a green lamp")
    seen = []
    for _ in range(2):
        words = WordIndex(tmp_path / "words")
        words.update(
            store._read_state(), lambda then: seen.append(then) or store._changes_since(then)
        )
        assert len(words.search("lamp", 5)) == 1

    assert len(seen) == 1, "the second finds the work done"
