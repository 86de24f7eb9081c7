"""How well are passages found? XQuAD English.

    python benchmarks/retrieval.py xquad.en.json           about two minutes
    BURNISH_INDEXES=postgresql://... python benchmarks/retrieval.py xquad.en.json

240 paragraphs of Wikipedia are the passages, 1,190 questions each have one right one (Artetxe et
al. 2020, CC BY-SA 4.0; the file in SQuAD's format is in google-deepmind/xquad). The same store
answers by words alone (BM25), by vectors alone, and by both (reciprocal rank fusion). The gain is
paired, hybrid against the better of the two alone; intervals by `core.stats`.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.core.settings import indexes_url
from burnish.core.stats import mean_interval, paired_test
from burnish.models.heads.embedder import Embedder
from burnish.models.local_models import find_model
from burnish.rag.postgres import PostgresStore
from burnish.rag.search import rank_by_meaning, reciprocal_rank_fusion
from burnish.rag.sqlite import SqliteStore
from burnish.rag.store import Passage

DEPTH = 50


def measures(rank: int | None) -> dict[str, float]:
    """What one question contributes; `rank` of its paragraph from 1, none beyond DEPTH."""
    place = rank or math.inf
    return {
        "recall@1": float(place <= 1),
        "recall@5": float(place <= 5),
        "recall@20": float(place <= 20),
        "MRR": 1 / place,
        "nDCG@10": 1 / math.log2(place + 1) if place <= 10 else 0.0,
    }


def read_squad(file: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Paragraphs, and questions with the number of their paragraph."""
    paragraphs, questions = [], []
    for article in json.loads(file.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            questions += [(entry["question"], len(paragraphs)) for entry in paragraph["qas"]]
            paragraphs.append(paragraph["context"])
    return paragraphs, questions


def quality(file: Path) -> dict[str, object]:
    """Each way's measures with intervals, and hybrid's gain over the better of the two others."""
    paragraphs, questions = read_squad(file)
    embedder = Embedder(find_model("all-minilm-l6-v2"))
    with tempfile.TemporaryDirectory() as folder:
        url = indexes_url()
        store = PostgresStore(url, "xquad") if url else SqliteStore(Path(folder) / "index.db")
        begun = time.perf_counter()
        vectors = embedder.encode(paragraphs)
        embedded = time.perf_counter() - begun
        for number, (text, vector) in enumerate(zip(paragraphs, vectors, strict=True)):
            passage = Passage(f"{number:04}", "", (), None, 0, len(text), text)
            store.replace(passage.file, "", [passage], vector[None])
        built = time.perf_counter() - begun
        asked = embedder.encode([question for question, _ in questions])
        ranks: dict[str, list[int | None]] = {"BM25": [], "vectors": [], "hybrid": []}
        for (question, right), vector in zip(questions, asked, strict=True):
            words = [own for own, _ in store.search_words(question, DEPTH)]
            nearest = [own for own, _ in store.search_vectors(vector, DEPTH)]
            known = rank_by_meaning(store, embedder, question, vector, DEPTH)
            meaning = [own for own, _ in known]
            fused = [own for own, _ in reciprocal_rank_fusion([meaning, words])]
            for name, found in zip(ranks, (words, nearest, fused), strict=True):
                own = right + 1
                ranks[name].append(found.index(own) + 1 if own in found else None)
    scores = {name: [measures(rank) for rank in some] for name, some in ranks.items()}
    return {
        "paragraphs": len(paragraphs),
        "questions": len(questions),
        "seconds_to_embed": embedded,
        "seconds_to_store": built - embedded,
        "ways": {name: intervals(some) for name, some in scores.items()},
        "gain_of_hybrid": gains(scores),
    }


def intervals(scores: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Each measure's mean with its 95 % interval."""
    found = {}
    for name in scores[0]:
        one = mean_interval([score[name] for score in scores])
        found[name] = [one.value, one.low, one.high]
    return found


def gains(scores: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, object]]:
    """Hybrid against the better of the two alone, question by question."""
    found: dict[str, dict[str, object]] = {}
    for name in scores["hybrid"][0]:
        values = {way: [score[name] for score in some] for way, some in scores.items()}
        best = max(("BM25", "vectors"), key=lambda way: sum(values[way]))
        test = paired_test(values["hybrid"], values[best])
        gain = [test.gain.value, test.gain.low, test.gain.high]
        found[name] = {"over": best, "gain": gain, "p_value": test.p_value}
    return found


def print_quality(found: Mapping[str, Any]) -> None:
    """A Markdown table: one line a measure."""
    embedded, stored = found["seconds_to_embed"], found["seconds_to_store"]
    print(f"{found['questions']} questions, {found['paragraphs']} paragraphs;", end=" ")
    print(f"embedding took {embedded:.1f} s, the store {stored:.2f} s\n")
    heads = ["measure", *found["ways"], "hybrid's gain over the better alone"]
    print_lines(heads, [quality_line(found, name) for name in found["gain_of_hybrid"]])


def quality_line(found: Mapping[str, Any], name: str) -> list[str]:
    cells = []
    for way in found["ways"].values():
        value, low, high = way[name]
        cells.append(f"{value:.3f} ({low:.3f} to {high:.3f})")
    won = found["gain_of_hybrid"][name]
    value, low, high = won["gain"]
    return [name, *cells, f"{value:+.3f} ({low:+.3f} to {high:+.3f}), {won['over']}"]


def print_lines(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    for line in (heads, ["---"] * len(heads), *lines):
        print(f"| {' | '.join(line)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("xquad", type=Path, help="xquad.en.json")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    measured = quality(options.xquad)
    print(json.dumps(measured, indent=2)) if options.json else print_quality(measured)


if __name__ == "__main__":
    main()
