"""The right passage is found: by words, by meaning, by both; and RRF is RRF."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from burnish.core.errors import NotFound
from burnish.rag.indexing import build_index
from burnish.rag.search import open_index, reciprocal_rank_fusion
from burnish.rag.sqlite import SqliteStore
from burnish.rag.store import Passage

EXAMPLE = Path(__file__).parents[2] / "examples" / "support-desk"


def test_ranks_are_fused_as_computed_by_hand():
    fused = reciprocal_rank_fusion([[1, 2, 3], [3, 1, 4]])

    assert [own for own, _ in fused] == [1, 3, 2, 4]
    assert dict(fused) == pytest.approx(
        {1: 1 / 61 + 1 / 62, 3: 1 / 63 + 1 / 61, 2: 1 / 62, 4: 1 / 63}
    )
    assert [own for own, _ in reciprocal_rank_fusion([[7, 8], [8, 7]])] == [7, 8]
    assert reciprocal_rank_fusion([[], []]) == []


@pytest.fixture
def store(tmp_path):
    """A store of texts, one file each, whose vectors are random."""

    def make(*texts, width=8):
        made = SqliteStore(tmp_path / "store.db")
        draws = np.random.default_rng(0).normal(size=(len(texts), width)).astype(np.float32)
        for n, text in enumerate(texts):
            passage = Passage(f"{n}.txt", "", (), None, 0, len(text), text)
            made.replace(f"{n}.txt", "digest", [passage], draws[n : n + 1])
        return made, draws

    return make


def test_words_are_ranked_by_bm25(store):
    texts = ["the lamp is red", "the lamp the lamp " + "and so on " * 30, "a rare petrel", "the of"]
    made, _ = store(*texts)

    assert [own for own, _ in made.search_words("Which LAMPS are red?", 9)] == [1, 2]
    rare_beats_common = made.search_words("the petrel", 9)
    assert rare_beats_common[0][0] == 3 and len(rare_beats_common) == 4
    assert made.search_words('"quotes" OR (NEAR* -^ place:', 9) == [], "no query language"
    assert made.search_words("?!", 9) == []


def test_bm25_is_the_published_formula(store):
    texts = ["petrel petrel wind", "wind and wave and rain", "wren", "skua hub", "heron rain"]
    made, _ = store(*texts)
    lengths = [len(text.split()) for text in texts]
    mean = sum(lengths) / len(texts)

    def bm25(word, n):
        tf = texts[n].split().count(word)
        df = sum(word in text.split() for text in texts)
        idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
        return idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * lengths[n] / mean))

    found = dict(made.search_words("petrel wind", 9))

    assert found[1] == pytest.approx(bm25("petrel", 0) + bm25("wind", 0), rel=1e-6)
    assert found[2] == pytest.approx(bm25("wind", 1), rel=1e-6)


def test_the_nearest_vectors_are_the_exact_ones_and_follow_changes(store):
    made, draws = store(*(f"text {n}" for n in range(50)))
    question = np.ones(8, dtype=np.float32)

    expected = [int(n) + 1 for n in np.argsort(-(draws @ question))[:7]]
    assert [own for own, _ in made.search_vectors(question, 7)] == expected
    only = {"3.txt", "9.txt"}
    assert {own for own, _ in made.search_vectors(question, 7, only)} == {4, 10}
    assert {own for own, _ in made.search_words("text", 7, only)} == {4, 10}

    other = SqliteStore(Path(made.database.execute("PRAGMA database_list").fetchone()[2]))
    other.remove([f"{expected[0] - 1}.txt"])
    assert [own for own, _ in made.search_vectors(question, 6)] == expected[1:]
    assert expected[0] not in dict(made.search_words("text", 100))


def test_files_can_be_chosen_by_a_pattern(folder, index):
    index(folder)
    opened = open_index("docs")

    found = opened.search("How long does a refund take?", files="notes/*")
    assert {item.passage.file for item in found} == {"notes/lamps.txt"}
    with pytest.raises(NotFound, match=r"none\*"):
        opened.search("anything", files="none*")


def test_a_passage_says_where_it_stands_and_why_it_was_found(folder, index):
    index(folder)

    opened = open_index("docs")

    found = opened.search("lost parcel", k=5)

    best = next(item for item in found if item.by_words == 1)
    assert best.passage.source == "parcels.md: Parcels > Lost (characters 39 to 76)"
    assert best.by_meaning and best.similarity <= 1
    assert best.score == pytest.approx(1 / 61 + 1 / (60 + best.by_meaning))
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)
    together = opened.search_all(["green lamp", "lost parcel"], k=5)
    assert [item.passage for item in together[1]] == [item.passage for item in found]


def test_an_index_that_is_not_there_is_told_with_those_that_are(folder, index):
    index(folder)

    with pytest.raises(NotFound, match=r"no index `other`.*there are: docs") as caught:
        open_index("other")
    assert "burnish index FOLDER --name other" in caught.value.fix


@pytest.mark.model
def test_the_handbook_s_pages_are_found(minilm):
    build_index([EXAMPLE / "handbook"], "handbook", {"embedder": minilm.name})
    rows = list(csv.DictReader((EXAMPLE / "questions.csv").open(encoding="utf-8")))[::4]

    found = open_index("handbook").search_all([row["question"] for row in rows], 5)

    hits = [
        row["page"] in {item.passage.file for item in some}
        for row, some in zip(rows, found, strict=True)
    ]
    assert sum(hits) / len(hits) > 0.9
    first = [row["page"] == some[0].passage.file for row, some in zip(rows, found, strict=True)]
    assert sum(first) / len(first) > 0.8
