"""How well are unsupported answers found? XQuAD's right answers, and swapped ones.

    python benchmarks/grounding.py xquad.en.json xquad.el.json           seconds

Right: the answer, with the five paragraphs of its article. Other passages: the same answer with the
four other paragraphs. Swapped: the answer to a question about another article, or about the same
paragraph, with the five. In two forms: the bare span, which stands in the paragraph word for word;
and what a person asked, taken as a claim, which says the same in other words. In each language the
threshold is chosen on every other article (the best F1 over both forms, the answers of the same
paragraph left out) and judged on the rest, which have no part in it. The files are parallel:
the same articles are held out in both.
"""

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from burnish.core.stats import mean_interval
from burnish.rag.grounding import LEAST_SUPPORT, support

KINDS = ("right", "other passages", "of another article", "of the same paragraph")
FORMS = ("span", "in other words")
CHOSEN_BY = KINDS[1:3]
Scores = dict[tuple[str, str], list[float]]
Pair = tuple[str, str]


def read_squad(file: Path) -> list[list[dict[str, Any]]]:
    """Articles, each a list of paragraphs with their questions."""
    data = json.loads(file.read_text(encoding="utf-8"))["data"]
    return [article["paragraphs"] for article in data]


def scored(articles: Sequence[list[dict[str, Any]]], seed: int) -> Scores:
    """The support of each right and each swapped answer, by (form, kind)."""
    draw, found = random.Random(seed), {(form, kind): [] for form in FORMS for kind in KINDS}
    for place, article in enumerate(articles):
        others = [one for n, one in enumerate(articles) if n != place]
        for kind, (question, own), said, passages in cases(article, others, draw):
            for form, answer, asked in zip(FORMS, said, (question, ""), strict=True):
                share = support(answer, passages, asked)
                if share is not None and (kind in KINDS[:2] or answer not in (own, question)):
                    found[form, kind].append(share)
    return found


def cases(
    article: list[dict[str, Any]], others: Sequence[list[dict[str, Any]]], draw: random.Random
) -> Iterator[tuple[str, Pair, tuple[str, str], list[str]]]:
    """(kind, question and its answer, what is said in both forms, passages)."""
    texts = [paragraph["context"] for paragraph in article]
    for place, paragraph in enumerate(article):
        pairs = pairs_of(paragraph)
        for pair in pairs:
            question, answer = pair
            yield "right", pair, (answer, question), texts
            others_of_it = texts[:place] + texts[place + 1 :]
            yield "other passages", pair, (answer, question), others_of_it
            far = draw.choice(pairs_of(draw.choice(draw.choice(others))))
            yield "of another article", pair, (far[1], far[0]), texts
            near = draw.choice(pairs)
            yield "of the same paragraph", pair, (near[1], near[0]), texts


def pairs_of(paragraph: dict[str, Any]) -> list[Pair]:
    return [(entry["question"], entry["answers"][0]["text"]) for entry in paragraph["qas"]]


def best_threshold(scores: Scores) -> float:
    """The threshold in twentieths below which swapped answers are found with the best F1."""

    def f1(least: float) -> float:
        below = {key: sum(own < least for own in some) for key, some in scores.items()}
        hits = sum(count for (_, kind), count in below.items() if kind in CHOSEN_BY)
        alarms = sum(count for (_, kind), count in below.items() if kind == "right")
        wanted = sum(len(some) for (_, kind), some in scores.items() if kind in CHOSEN_BY)
        return 2 * hits / (wanted + hits + alarms)

    return max((step / 20 for step in range(1, 21)), key=f1)


def print_table(scores: Scores, least: float) -> None:
    """Markdown: how many are flagged; precision, were right ones as many as those of the line."""
    print(f"| form | answers | n | flagged below {least:.2f} | precision |")
    print("|---|---|---|---|---|")
    for (form, kind), some in scores.items():
        one = mean_interval([float(own < least) for own in some])
        right = scores[form, "right"]
        alarms = sum(own < least for own in right) / len(right)
        share = f"{100 * one.value:.1f} % ({100 * one.low:.1f} to {100 * one.high:.1f})"
        sure = "" if kind == "right" else f"{100 * one.value / max(one.value + alarms, 1e-9):.0f} %"
        print(f"| {form} | {kind} | {len(some)} | {share} | {sure} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("xquad", type=Path, nargs="+", help="xquad.en.json, xquad.el.json")
    for file in parser.parse_args().xquad:
        articles = read_squad(file)
        chosen = best_threshold(scored(articles[::2], 0))
        print(f"{file.name}: chosen on {len(articles[::2])} articles: {chosen:.2f}", end=" ")
        print(f"(built in: {LEAST_SUPPORT:.2f}); judged on the other {len(articles[1::2])}.\n")
        print_table(scored(articles[1::2], 1), chosen)
        print()


if __name__ == "__main__":
    main()
