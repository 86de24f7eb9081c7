"""Whatever a file holds, a reader reads it or says what is wrong with it: no traceback, no hang."""

import json
import os
import random
import time
import zipfile
from io import BytesIO
from pathlib import Path

import docx
import polars
import pytest

from burnish.core.errors import BurnishError
from burnish.core.recipe.data import Data, Task
from burnish.data.check import check
from burnish.data.formats import FORMATS
from burnish.data.read import READERS as ROW_READERS
from burnish.data.read import read_files
from burnish.evaluate.metrics import METRICS
from burnish.rag.readers import READERS as DOCUMENT_READERS
from burnish.rag.readers import read_document
from tests.fixtures.documents import pdf

#: Seconds that one file of a few thousand bytes may take, on a machine that is busy.
_SECONDS = 10
_LONG = int(os.environ.get("FUZZ_INPUTS", "1000000"))

CALLING = {
    "messages": [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}]},
        {"role": "tool", "tool_call_id": "a", "content": "found"},
        {"role": "assistant", "content": "There.", "weight": 0},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
}  # fmt: skip
HISTORY = {"instruction": "a", "input": "", "output": "b", "history": [["c", "d"]], "system": "e"}
LINES = [*(shape.example for shape in FORMATS.values()), json.dumps(CALLING), json.dumps(HISTORY)]
TABLE = 'text,label\n"a, b",c\nthe 5" pipe,d\n'
PAGE = "<!doctype html><title>T</title><h1>A</h1><p>b &amp; c<svg><title>x</title></svg><pre>\nd"
MARKDOWN = "---\na: b\n---\n# A\n\ntext\n\n## B\n\n- c\n- d\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"

#: What breaks readers, put in at a random place.
POISON = [
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud83d", b"\xed\xa0\xbd", b"NaN", b"-Infinity",
    b"1e999", b"7" * 5_000, b"[" * 2_000, b'{"a":' * 2_000, b'"', b"\r", b"\xe2\x80\xa8", b"null",
    b"true", b"[]", b"{}", b'""', b"0", b"-1", b"<a " * 50, b"<!--", b"]]>", b"&#xD800;", b"%PDF",
    b"PK\x03\x04", b"\t", b";", b"|", b"\n\n", b"```", b"\xf0\x9f\x98\x80", b"e\xcc\x81",
]  # fmt: skip


def word_file():
    source, out = docx.Document(), BytesIO()
    source.add_heading("Warranty", level=1)
    source.add_paragraph("Three years.")
    source.add_table(1, 2).rows[0].cells[0].text = "Salt"
    source.save(out)
    return out.getvalue()


def parquet_file():
    out = BytesIO()
    polars.DataFrame({"text": ["a", "b"], "label": ["c", "d"]}).write_parquet(out)
    return out.getvalue()


@pytest.fixture(scope="module")
def seeds():
    """Ending → healthy files of that kind."""
    lines = [line.encode() for line in LINES]
    rows = [b"\n".join(lines[n : n + 1] * 3) for n in range(len(lines))]
    array = ("[" + ",".join(LINES[:3]) + "]").encode()
    return {
        ".jsonl": rows, ".ndjson": rows[:2], ".json": [array], ".csv": [TABLE.encode()],
        ".tsv": [TABLE.replace(",", "\t").encode()], ".parquet": [parquet_file()],
        ".txt": [MARKDOWN.encode()], ".md": [MARKDOWN.encode()], ".markdown": [MARKDOWN.encode()],
        ".html": [PAGE.encode()], ".htm": [PAGE.encode()], ".docx": [word_file()],
        ".pdf": [pdf("First page", "Second page")],
    }  # fmt: skip


def mutated(draw, content):
    """The content after a few small accidents."""
    found = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at, end = sorted(draw.randrange(len(found) + 1) for _ in range(2))
        end = min(end, at + draw.choice((1, 4, 64, 4_096)))
        kind = draw.randrange(5)
        if kind == 0:
            found[at:at] = draw.choice(POISON)
        elif kind == 1:
            found[at:end] = b""
        elif kind == 2:
            found[at:at] = found[at:end] * draw.choice((1, 2, 30))
        elif kind == 3 and at < len(found):
            found[at] = draw.randrange(256)
        else:
            found[at:end] = draw.choice(POISON)
    return bytes(found[:200_000])


def mutated_inside(draw, content):
    """A Word file with an accident in one of its parts, its archive whole."""
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        harmed = draw.choice([name for name in old.namelist() if name.endswith((".xml", ".rels"))])
        for name in old.namelist():
            part = old.read(name)
            new.writestr(name, mutated(draw, part) if name == harmed else part)
    return out.getvalue()


def read_as_rows(file: Path):
    check(read_files([file], Data(), Task()), 0.8)


def fuzz(seeds, folder, kinds, read, seed, count):
    draw = random.Random(seed)
    for number in range(count):
        kind = draw.choice(kinds)
        content = draw.choice(seeds[kind])
        inside = kind == ".docx" and draw.random() < 0.7
        harmed = (mutated_inside if inside else mutated)(draw, content)
        file = folder / f"harmed{kind}"
        file.write_bytes(harmed)
        began = time.process_time()
        try:
            read(file)
        except BurnishError as error:
            assert str(error)
        except Exception as error:
            kept = folder / f"failing-{seed}-{number}{kind}"
            kept.write_bytes(harmed)
            raise AssertionError(f"{kept} (seed {seed}, number {number})") from error
        assert time.process_time() - began < _SECONDS, f"seed {seed}, number {number}"


ROOMS = {
    "rows": (sorted(ROW_READERS), read_as_rows),
    "documents": (sorted(DOCUMENT_READERS), read_document),
}


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("seed", range(2))
def test_harmed_files_are_read_or_named(seeds, tmp_path, room, seed):
    fuzz(seeds, tmp_path, *ROOMS[room], seed, 150)


@pytest.mark.long
@pytest.mark.parametrize("room", ROOMS)
def test_a_million_harmed_files_are_read_or_named(seeds, tmp_path, room):
    """`FUZZ_INPUTS` says how many; a failing input is kept with its seed."""
    fuzz(seeds, tmp_path, *ROOMS[room], 1_000, _LONG // len(ROOMS))


@pytest.mark.parametrize("seed", range(3))
def test_harmed_answers_are_scored(seed):
    draw = random.Random(seed)
    for _ in range(150):
        answer = mutated(draw, draw.choice(LINES).encode())[:2_000].decode("utf-8", "replace")
        for score in METRICS.values():
            assert 0 <= score(answer, LINES[0]) <= 1 and 0 <= score(LINES[0], answer) <= 1
