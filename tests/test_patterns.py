"""No regular expression of the package can be made slow by what somebody sends."""

import ast
import re
import time
from pathlib import Path

import pytest
import regex

import burnish
from burnish.data.pii import find_pii_kinds

ROOT = Path(burnish.__file__).parent
_CALLS = frozenset(
    ("compile", "match", "search", "fullmatch", "findall", "finditer", "split", "sub")
)
_SIZE = 100_000


def patterns():
    """Every pattern that stands in the source as it is, with where it stands and its flags."""
    for file in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner, args = node.func.value, node.args
                is_ours = isinstance(owner, ast.Name) and owner.id in ("re", "regex")
                if not (is_ours and node.func.attr in _CALLS and args):
                    continue
                if isinstance(args[0], ast.Constant) and isinstance(args[0].value, str):
                    flags = sum(
                        int(getattr(re, one.attr))
                        for part in (*args[1:], *(word.value for word in node.keywords))
                        for one in ast.walk(part)
                        if isinstance(one, ast.Attribute) and isinstance(
                            getattr(re, one.attr, None), re.RegexFlag)
                    )  # fmt: skip
                    where = f"{file.relative_to(ROOT)}:{node.lineno}"
                    yield pytest.param(owner.id, args[0].value, flags, id=where)


def attacks(pattern, size):
    """Texts of runs of what the pattern itself speaks of, with a bad beginning or end."""
    signs = sorted({*re.sub(r"\\[a-zA-Z]|[\[\](){}?*+|^$]", "", pattern), *" \na1.-"})[:16]
    pieces = [*signs, "a.", "\n ", "1 ", "1,111", ".a@", "{{"]
    for piece in pieces:
        run = piece * (size // len(piece))
        yield from (run, f"a{run}!\x00", f"{{{{item{run}", f"---\n{run}")


@pytest.mark.parametrize(("library", "pattern", "flags"), patterns())
def test_a_pattern_reads_any_text_in_time_that_grows_with_it(library, pattern, flags):
    found = {"re": re, "regex": regex}[library].compile(pattern, flags)
    # What is quadratic takes seconds for the shorter texts, before it takes minutes for the longer.
    for size, seconds in ((_SIZE // 5, 0.5), (_SIZE, 2)):
        for text in attacks(pattern, size):
            began = time.process_time()

            found.match(text)
            found.fullmatch(text)
            for _ in found.finditer(text):
                pass

            assert time.process_time() - began < seconds, text[:40]


@pytest.mark.parametrize(
    "text",
    ["a." * 50_000 + "@", "a@" * 50_000, "1" * _SIZE, "1 " * 50_000, "1-" * 50_000, "+1(" * 33_000,
     "GR16 0110 " * 10_000, "A1" * 50_000, "(1)" * 33_000, "a@a." * 25_000, "+" * _SIZE],
)  # fmt: skip
def test_personal_data_is_looked_for_in_time_that_grows_with_the_text(text):
    began = time.process_time()

    find_pii_kinds(text)

    assert time.process_time() - began < 4


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("write to ann.lee+x@mail.acme.org today", ["mail address"]),
        ("<ann@acme.org>, bob@acme.org.", ["mail address"]),
        ("ann@example.com and a@b", []),
    ],
)
def test_mail_addresses_are_still_found(text, kinds):
    assert find_pii_kinds(text) == kinds
