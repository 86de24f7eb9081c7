"""Does the search know when the documents are about other things? XQuAD, held out by article.

    python benchmarks/dont_know.py xquad.en.json xquad.el.json           two minutes

The paragraphs of half of some articles are the documents. Questions about them have an answer
there; questions about the other articles have none, and `burnish ask` should say that it doesn't
know without asking the model: if no passage has the least cosine (`--least-similarity`). It is
chosen on every other article, the largest one that refuses at most one in fifty questions that have
an answer, and judged on the rest of the articles, which have no part in the choice.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from burnish.core.stats import mean_interval
from burnish.models.heads.embedder import Embedder
from burnish.models.local_models import find_model
from burnish.rag.answer import AnswerSettings
from grounding import pairs_of, read_squad

#: Share of the questions with an answer that may be refused, where the threshold is chosen.
MOST_REFUSED = 0.02
Article = list[dict[str, Any]]


def nearest(embedder: Embedder, articles: Sequence[Article]) -> dict[str, np.ndarray]:
    """The cosine of the nearest passage, for questions with and without an answer in them."""
    passages = [one["context"] for article in articles[::2] for one in article]
    vectors = embedder.encode(passages)
    found = {}
    for kind, some in (("answer in the documents", articles[::2]), ("none", articles[1::2])):
        asked = [pair[0] for article in some for one in article for pair in pairs_of(one)]
        found[kind] = (embedder.encode(asked) @ vectors.T).max(axis=1)
    return found


def threshold(cosines: dict[str, np.ndarray]) -> float:
    """The largest threshold, in hundredths, that refuses few enough questions with an answer."""
    own = cosines["answer in the documents"]
    steps = [step / 100 for step in range(101)]
    return max(least for least in steps if (own < least).mean() <= MOST_REFUSED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("xquad", type=Path, nargs="+", help="xquad.en.json, xquad.el.json")
    parser.add_argument("--articles", type=int, help="only the first so many (a smoke run)")
    options = parser.parse_args()
    embedder = Embedder(find_model("all-minilm-l6-v2"))
    print("| file | threshold | question has | n | refused (95 % interval) |")
    print("|---|---|---|---|---|")
    for file in options.xquad:
        articles = read_squad(file)[: options.articles]
        chosen = threshold(nearest(embedder, articles[::2]))
        judged = nearest(embedder, articles[1::2])
        for name, least in (("chosen", chosen), ("built in", AnswerSettings().least_similarity)):
            for kind, cosines in judged.items():
                one = mean_interval([float(own < least) for own in cosines])
                share = f"{100 * one.value:.1f} % ({100 * one.low:.1f} to {100 * one.high:.1f})"
                told = kind if kind != "none" else "no answer there"
                print(f"| {file.name} | {least:.2f} ({name}) | {told} | {one.n} | {share} |")


if __name__ == "__main__":
    main()
