"""How do time and memory of the retrieval engine grow with the number of passages?

    python benchmarks/retrieval_scale.py 1000 10000 100000 1000000 --plot scale.svg
    python benchmarks/retrieval_scale.py --recall train.csv test.csv     (BANKING77)

Passages are 120 words as frequent as in text (Zipf) with random unit vectors, 100 to a file, so
that the embedder's time is left out; questions are 10 words. Each size is built in one process and
searched in another, whose memory is what it takes more than before the index was opened.

Recall: of the 50 nearest by exact comparison, how many does the scan of sign bits find? BANKING77's
10,003 training questions are the passages, its test questions are asked (Casanueva et al. 2020).
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil

from burnish.core.stats import mean_interval, quantile
from burnish.models.heads.embedder import Embedder
from burnish.models.local_models import find_model
from burnish.rag.sqlite import SqliteStore
from burnish.rag.store import Passage

DEPTH, WIDTH, QUESTIONS, FILE_SIZE, WORDS = 50, 384, 200, 100, 30_000
SERIES = {"p95_ms": "both", "words_p95_ms": "words", "vectors_p95_ms": "vectors"}


class Texts:
    """Texts of made-up words, the n-th of which is 1 / n as frequent as the first."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(0)
        letters = "abcdefghijklmnop"
        words = ["".join(draw.choices(letters, k=draw.randint(3, 9))) for _ in range(WORDS)]
        self.words = np.array(words)
        weights = np.cumsum(1 / np.arange(1, WORDS + 1))
        self.weights = weights / weights[-1]
        self.draw = np.random.default_rng(seed)

    def some(self, count: int, length: int) -> list[str]:
        drawn = np.searchsorted(self.weights, self.draw.random((count, length)))
        return [" ".join(row) for row in self.words[drawn]]

    def vectors(self, count: int) -> np.ndarray:
        drawn = self.draw.normal(size=(count, WIDTH)).astype(np.float32)
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def build(size: int, file: Path) -> dict[str, float]:
    """Seconds that the store takes for `size` passages, and bytes on disk."""
    texts, store, spent = Texts(0), SqliteStore(file), 0.0
    for first in range(0, size, FILE_SIZE):
        drawn = texts.some(min(FILE_SIZE, size - first), 120)
        name = f"{first:08}"
        passages = [Passage(name, "", (), None, 0, len(text), text) for text in drawn]
        vectors = texts.vectors(len(drawn))
        begun = time.perf_counter()
        store.replace(name, "", passages, vectors)
        spent += time.perf_counter() - begun
    begun = time.perf_counter()
    store.refresh()
    spent += time.perf_counter() - begun
    store.close()
    disk = sum(part.stat().st_size for part in file.parent.rglob("*") if part.is_file())
    return {"passages": size, "seconds_to_build": spent, "disk_mb": disk / 1e6}


def search(file: Path) -> dict[str, float]:
    """Times of QUESTIONS searches, of the first one, of a change, and memory."""
    texts = Texts(1)
    asked, vectors = texts.some(QUESTIONS, 10), texts.vectors(QUESTIONS)
    before = psutil.Process().memory_info().rss
    store = SqliteStore(file)
    begun = time.perf_counter()
    store.search_words(asked[0], DEPTH), store.search_vectors(vectors[0], DEPTH)
    opened = time.perf_counter() - begun
    times: dict[str, list[float]] = {"words": [], "vectors": []}
    for question, vector in zip(asked, vectors, strict=True):
        begun = time.perf_counter()
        store.search_words(question, DEPTH)
        between = time.perf_counter()
        store.search_vectors(vector, DEPTH)
        times["words"].append(between - begun)
        times["vectors"].append(time.perf_counter() - between)
    both = [sum(pair) for pair in zip(*times.values(), strict=True)]
    memory = psutil.Process().memory_info().rss - before
    begun = time.perf_counter()
    store.replace("one more", "", [Passage("one more", "", (), None, 0, 3, "one")], vectors[:1])
    store.search_words(asked[0], DEPTH), store.search_vectors(vectors[0], DEPTH)
    return {
        "first_ms": opened * 1e3,
        "p50_ms": quantile(both, 0.5) * 1e3,
        "p95_ms": quantile(both, 0.95) * 1e3,
        "words_p95_ms": quantile(times["words"], 0.95) * 1e3,
        "vectors_p95_ms": quantile(times["vectors"], 0.95) * 1e3,
        "change_ms": (time.perf_counter() - begun) * 1e3,
        "memory_mb": memory / 1e6,
    }


def measured(sizes: Sequence[int]) -> Iterator[dict[str, float]]:
    """Each size, built and searched in processes of their own."""
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            file, found = str(Path(folder) / "index.db"), {}
            for step in ("--build", "--search"):
                command = [sys.executable, __file__, str(size), step, file]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found |= json.loads(done.stdout)
            yield found


def print_table(found: Sequence[Mapping[str, float]]) -> None:
    """Markdown: one line a size."""
    print("| passages | build | first search | p50 | p95 | words p95 | vectors p95 "
          "| search after a change | memory | disk |")  # fmt: skip
    print("|---" * 10 + "|")
    for one in found:
        names = ("first_ms", "p50_ms", "p95_ms", "words_p95_ms", "vectors_p95_ms", "change_ms")
        cells = [f"{one['passages']:,}", f"{one['seconds_to_build']:.1f} s"]
        cells += [f"{one[name]:.1f} ms" for name in names]
        cells += [f"{one[name]:,.0f} MB" for name in ("memory_mb", "disk_mb")]
        print(f"| {' | '.join(cells)} |")


def plot(found: Sequence[Mapping[str, float]], file: Path) -> None:
    """p95 over the number of passages, both axes logarithmic, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6))
    sizes = [one["passages"] for one in found]
    for key, label in SERIES.items():
        axes.loglog(sizes, [one[key] for one in found], marker="o", label=label)
    axes.axhline(50, linestyle=":", color="grey", label="the aim: 50 ms")
    axes.set(xlabel="passages", ylabel="p95 of a search, ms")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, bbox_inches="tight", metadata={"Date": None})


def recall(train: Path, test: Path) -> None:
    """Share of the exact 50 (and the first) that is found, with a 95 % interval."""
    embedder = Embedder(find_model("all-minilm-l6-v2"))
    texts, asked = (
        [row["text"] for row in csv.DictReader(file.open(encoding="utf-8"))]
        for file in (train, test)
    )
    vectors, questions = embedder.encode(texts), embedder.encode(asked[:: len(asked) // 1000])
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "index.db")
        passages = [Passage("all", "", (), None, 0, len(text), text) for text in texts]
        store.replace("all", "", passages, vectors)
        shares, firsts = [], []
        for question in questions:
            exact = (np.argsort(-(vectors @ question), kind="stable")[:DEPTH] + 1).tolist()
            found = [own for own, _ in store.search_vectors(question, DEPTH)]
            shares.append(len(set(exact) & set(found)) / DEPTH)
            firsts.append(float(exact[:5] == found[:5]))
    for name, values in (("recall of the nearest 50", shares), ("the nearest 5 alike", firsts)):
        one = mean_interval(values)
        print(f"{name}: {one.value:.4f} ({one.low:.4f} to {one.high:.4f}), n={len(values)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sizes", type=int, nargs="*", help="passages, a row each")
    parser.add_argument("--plot", type=Path, help="write the times as an SVG (needs matplotlib)")
    parser.add_argument("--recall", type=Path, nargs=2, help="BANKING77's two files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--search", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        print(json.dumps(build(options.sizes[0], options.build)))
    elif options.search:
        print(json.dumps(search(options.search)))
    elif options.recall:
        recall(*options.recall)
    elif options.sizes:
        found = list(measured(options.sizes))
        print(json.dumps(found, indent=2)) if options.json else print_table(found)
        if options.plot:
            plot(found, options.plot)
    else:
        parser.error("name sizes, or --recall")


if __name__ == "__main__":
    main()
