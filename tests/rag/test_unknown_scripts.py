"""Passages in a script that the embedder doesn't know are ranked by words, and that is said."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from burnish import api
from burnish.cli.main import app
from burnish.core.errors import BadRecipe
from burnish.models.heads.embedder import Embedder
from burnish.models.local_models import find_model, read_manifest, write_manifest
from burnish.rag.answer import DONT_KNOW, AnswerSettings, ask
from burnish.rag.indexing import build_index
from burnish.rag.search import open_index
from tests.stubs.rule_engine import RuleEngine

GREEK = {
    "demata.txt": "Ένα δέμα φτάνει σε τρεις ημέρες.",
    "chrimata.txt": "Τα χρήματα επιστρέφονται σε πέντε ημέρες.",
    "lampa.txt": "Η λάμπα είναι πράσινη και ανάβει το βράδυ.",
}
QUESTION = "Πότε φτάνει το δέμα;"


@pytest.fixture
def english(tiny_embedder, embedder_folder, tmp_path, monkeypatch):
    """The tiny embedder with a manifest that names what it was trained for; English by default."""

    def make(**trained_for):
        models = tmp_path / "models"
        copy = models / "tiny-english"
        shutil.rmtree(models, ignore_errors=True)
        shutil.copytree(tiny_embedder.path, copy)
        facts = read_manifest(copy) | {"name": "tiny-english"}
        del facts["files"]
        write_manifest(
            copy, facts | (trained_for or {"languages": ["English"], "scripts": ["Latin"]})
        )
        monkeypatch.setenv("BURNISH_MODELS", str(models))
        return find_model("tiny-english")

    return make


@pytest.fixture
def greek(tmp_path):
    """A folder of three Greek documents."""
    root = tmp_path / "greek"
    root.mkdir()
    for name, text in GREEK.items():
        (root / name).write_text(text, encoding="utf-8")
    return root


def files(hits):
    return [item.passage.file for item in hits]


def test_greek_is_ranked_by_words_alone_where_the_embedder_knows_latin(greek, english):
    report = build_index([greek], "docs", {"embedder": english().name})
    opened = open_index("docs")
    hits = opened.search(QUESTION)

    by_words = [own for own, _ in opened.store.search_words(QUESTION, 50)]
    assert hits[0].passage.file == "demata.txt"
    assert files(hits) == [
        passage.file.rpartition("/")[2] for passage in opened.store.passages(by_words)
    ]
    assert all(item.by_meaning is None and item.similarity is None for item in hits)
    assert hits.note.startswith(
        "The passages were ranked by words alone: tiny-english was trained for English."
    )
    assert "rag.embedder" in hits.note and opened.search_all([QUESTION])[0] == hits
    assert report.unknown_scripts == {"Greek": 1.0} and report.word_ranked == 3
    assert report.note.startswith("3 of the passages read are found by words alone (100% Greek")
    assert report.note in report.as_text() and report.as_dict()["word_ranked"] == 3


def test_what_the_index_says_is_not_said_again_where_nothing_is_read(greek, english):
    settings = {"embedder": english().name}
    build_index([greek], "docs", settings)

    assert build_index([greek], "docs", settings).note == ""


def test_in_a_mixed_collection_each_passage_is_ranked_by_what_is_known_of_it(
    folder, greek, english
):
    report = build_index([folder, greek], "docs", {"embedder": english().name})
    opened = open_index("docs")
    latin = opened.search("How long does a parcel take? δέμα", k=9)
    other = opened.search(QUESTION, k=9)

    assert report.word_ranked == 3 and 0 < report.unknown_scripts["Greek"] < 1
    ranked = {item.passage.file.rpartition("/")[2]: item.by_meaning for item in latin}
    assert ranked.pop("demata.txt") is None, "found by its word"
    assert len(ranked) == 3 and all(ranked.values()), "the English ones by meaning"
    assert latin.note.startswith(f"1 of {len(latin)} passages were ranked by words alone")
    assert {item.by_meaning for item in other} == {None}
    assert not any("documents/" in file for file in files(other))


def test_english_is_ranked_as_by_an_embedder_that_says_nothing(folder, english):
    found = []
    for name, trained_for in (("said", {}), ("unsaid", {"languages": []})):
        report = build_index([folder], name, {"embedder": english(**trained_for).name})
        found.append(open_index(name).search("How long does a parcel take?"))
        assert (report.note, report.unknown_scripts, found[-1].note) == ("", {}, "")

    assert found[0] == found[1] and found[0][0].by_meaning


def test_an_embedder_that_says_nothing_or_knows_greek_is_trusted(greek, english):
    for name, scripts in (("unsaid", []), ("greek", ["Latin", "Greek"])):
        report = build_index([greek], name, {"embedder": english(scripts=scripts).name})
        hits = open_index(name).search(QUESTION)

        assert (report.note, hits.note) == ("", "")
        assert len(hits) == 3 and all(item.by_meaning for item in hits)


def test_a_question_in_latin_to_greek_passages_says_that_words_alone_ranked(greek, english):
    build_index([greek], "docs", {"embedder": english().name})

    hits = open_index("docs").search("When does the parcel arrive?")

    assert hits == [] and "ranked by words alone" in hits.note


def test_search_prints_why_words_alone_ranked(greek, english):
    build_index([greek], "docs", {"embedder": english().name})

    printed = CliRunner().invoke(app, ["search", "docs", QUESTION, "--json"]).stdout

    assert json.loads(printed)["note"] == api.search("docs", QUESTION).note != ""


def test_an_answer_asks_no_similarity_of_passages_without_one(greek, english):
    build_index([greek], "docs", {"embedder": english().name})
    opened, engine = open_index("docs"), RuleEngine(lambda prompt: "Σε τρεις ημέρες [1].")
    engine.system = None
    settings = AnswerSettings(least_similarity=0.9)

    assert ask(engine, opened, QUESTION, settings).citations[0].hit.passage.file == "demata.txt"
    assert ask(engine, opened, "ζζζ", settings).answer == DONT_KNOW


def test_a_manifest_with_an_unknown_script_is_refused(english):
    with pytest.raises(BadRecipe, match="not known: Greke"):
        Embedder(english(scripts=["Greke"]))


def test_the_default_embedder_is_known_for_english_by_its_name_and_its_hub_id(english):
    local = english()
    for name in ("all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2", "a-tuned-one"):
        facts = {key: read_manifest(local.path)[key] for key in ("kind", "licence")}
        write_manifest(
            local.path, {**facts, "context_length": 256, "has_template": False, "name": name}
        )
        expected = ((), ()) if name == "a-tuned-one" else (("English",), ("Latin",))
        found = find_model("tiny-english")
        assert (found.languages, found.scripts) == expected
