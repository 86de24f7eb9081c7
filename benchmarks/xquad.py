"""Closed book against open book: can a small model be taught facts, or must it look them up? XQuAD.

    python benchmarks/xquad.py xquad.en.json --out xquad --rows 300 --questions 150 --epochs 1
    python benchmarks/xquad.py xquad.en.json --out xquad-read --read ...

The questions (Artetxe et al. 2020, CC BY-SA 4.0) are split by article: those of every fourth one
are asked, those of every eighth of the rest choose the checkpoint, the others are learnt from.
`rag.documents` are the paragraphs of all articles, so that retrieval has to find the right one of
240. What each route can know of the facts that are asked:

base, few_shot          what stood in the model's pre-training; few_shot sees the form of an answer
fine_tuned              the same and the form: no training row says anything about these articles;
                        with --read it also learns the paragraphs of the articles that are asked, as
                        plain text, but no question about them (continued pre-training, as in Ovadia
                        et al. 2024, arXiv:2312.05934)
retrieval               the paragraphs that are found
retrieval_fine_tuned    the paragraphs that are found, having learnt to read such paragraphs

The folder `--out` gets the documents, the rows and `recipe.yaml`, which `burnish compare` repeats;
`xquad.json` has the comparison as `--json` prints it.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from burnish import api
from burnish.cli.progress_bars import ProgressBars
from burnish.core.atomic import write_atomic, write_json
from burnish.core.progress import set_reporter
from grounding import pairs_of, read_squad

ROUTES = ("base", "few_shot", "retrieval", "fine_tuned", "retrieval_fine_tuned")
Article = list[dict[str, Any]]


def write_documents(articles: Sequence[Article], folder: Path) -> None:
    """One text file an article."""
    for number, article in enumerate(articles):
        text = "\n\n".join(paragraph["context"] for paragraph in article)
        write_atomic(folder / f"article-{number:02}.txt", text + "\n")


def rows_of(articles: Sequence[Article]) -> list[dict[str, str]]:
    pairs = [pair for article in articles for one in article for pair in pairs_of(one)]
    return [{"question": question, "answer": answer} for question, answer in pairs]


def write_rows(file: Path, rows: Sequence[dict[str, str]]) -> None:
    write_atomic(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_data(articles: Sequence[Article], options: argparse.Namespace) -> None:
    """Documents and splits by article; the training rows as many as wanted, drawn by a seed."""
    folder: Path = options.out
    write_documents(articles, folder / "documents")
    asked = list(articles[::4])
    others = [article for place, article in enumerate(articles) if place % 4]
    chosen = others[::8]
    learnt = rows_of([article for place, article in enumerate(others) if place % 8])
    looked_at = rows_of(chosen)
    for rows in (learnt, looked_at):
        random.Random(0).shuffle(rows)
    write_rows(folder / "train.jsonl", learnt[: options.rows])
    most = max(options.rows // 5, 1) if options.rows else None
    write_rows(folder / "validation.jsonl", looked_at[:most])
    write_rows(folder / "test.jsonl", rows_of(asked))
    texts = [{"text": paragraph["context"]} for article in asked for paragraph in article]
    if options.read:
        write_rows(folder / "paragraphs.jsonl", texts)


def write_recipe(options: argparse.Namespace) -> Path:
    files = ["train.jsonl", *(["paragraphs.jsonl"] if options.read else [])]
    recipe = {
        "task": {"kind": "qa", "prompt": "You answer questions about articles."},
        "model": {"name": options.model},
        "data": {"train": files, "validation": "validation.jsonl", "test": "test.jsonl"},
        "evaluate": {"max_rows": options.questions},
        "rag": {"documents": "documents", "k": 3},
        "compare": {"routes": list(options.routes), "forgetting": False},
        "train": {"learning_rate": 5e-4, "epochs": options.epochs, "batch_size": 8},
    }
    file: Path = options.out / "recipe.yaml"
    write_atomic(file, yaml.safe_dump(recipe, sort_keys=False))
    return file


def print_table(result: dict[str, Any]) -> None:
    """Markdown: one line a route."""
    print("| route | token F1 (95 % interval) | exact match | gain over `base` | tokens in | p50 |")
    print("|---|---|---|---|---|---|")
    for route in result["routes"]:
        low, high = route["ci"]
        score = f"{100 * route['value']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        gain = (
            [100 * route["gain"][end] for end in ("value", "low", "high")] if route["gain"] else []
        )
        more = "{:+.1f} ({:+.1f} to {:+.1f})".format(*gain) if gain else ""
        print(
            f"| `{route['name']}` | {score} | {100 * route['exact_match']:.0f} % | {more} "
            f"| {route['tokens_in']:.0f} | {route['latency_p50_s']:.2f} s |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("xquad", type=Path, help="xquad.en.json or another language")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--routes", nargs="+", default=ROUTES, choices=ROUTES)
    parser.add_argument("--read", action="store_true", help="train on the paragraphs as text too")
    parser.add_argument("--articles", type=int, help="only the first so many (a smoke run)")
    parser.add_argument(
        "--rows", type=int, help="training questions at the most, and a fifth of it to validate"
    )
    parser.add_argument("--questions", type=int, help="test questions at the most")
    parser.add_argument("--epochs", type=float, default=1)
    options = parser.parse_args()
    write_data(read_squad(options.xquad)[: options.articles], options)
    recipe = write_recipe(options)
    set_reporter(ProgressBars())
    result = api.compare(recipe)
    write_json(options.out / "xquad.json", result.as_dict())
    print_table(result.as_dict())
    print(f"\n{result.as_text()}")


if __name__ == "__main__":
    main()
