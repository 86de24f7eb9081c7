"""Every kind of file becomes text under headings, and a broken one says what is wrong with it."""

import subprocess
import sys

import docx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.errors import BadData
from burnish.rag.readers import READERS, read_document
from tests.fixtures.documents import pdf

MARKDOWN = """---
title: front matter
---
# The *Heron*

Counts rain.

## Limits

- up to 180 mm
- not hail

```
# not a heading
```

### Deep

| a | b |
|---|---|
| 1 | 2 |

Setext
------

Last words.

[reference]: https://example.org
"""


def said(document):
    return [
        (" > ".join(block.headings), document.text[block.start : block.end])
        for block in document.blocks
    ]


def write(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_markdown_keeps_the_file_s_own_characters_and_its_outline(tmp_path, newline):
    source = MARKDOWN.replace("\n", newline)

    document = read_document(write(tmp_path, "heron.md", source))

    assert document.text == source and document.title == "The *Heron*"
    found = [(place, text.replace(newline, "\n")) for place, text in said(document)]
    assert found[0] == ("", "---\ntitle: front matter\n---")
    assert found[1] == ("The *Heron*", "# The *Heron*\n\nCounts rain.")
    assert found[2] == ("The *Heron* > Limits", "## Limits\n\n- up to 180 mm\n- not hail")
    assert found[3] == ("The *Heron* > Limits", "```\n# not a heading\n```")
    assert found[4][0] == "The *Heron* > Limits > Deep" and found[4][1].endswith("| 1 | 2 |")
    assert found[5] == ("The *Heron* > Setext", "Setext\n------\n\nLast words.")
    assert found[6][1] == "[reference]: https://example.org"


@pytest.mark.parametrize("kind", [".md", ".txt", ".html", ".csv", ".jsonl"])
@given(
    text=st.text(
        st.sampled_from("ab# \n\r\t-=|>`*[]:<&;\"'1.~\u2028\x0bé"), min_size=1, max_size=80
    )
)
def test_no_word_is_lost_whatever_the_file_says(tmp_path_factory, kind, text):
    file = tmp_path_factory.mktemp("any") / f"any{kind}"
    file.write_bytes(text.encode())
    try:
        document = READERS[kind](file)
    except BadData:
        return

    if kind in (".md", ".txt"):
        assert document.text == text
    last = 0
    for block in document.blocks:
        assert last <= block.start < block.end
        assert not document.text[last : block.start].strip()
        last = block.end
    assert not document.text[last:].strip()


def test_html_is_what_a_reader_sees(tmp_path):
    page = """<html><head><title>The Skua</title><style>p {color: red}</style></head><body>
    <h1>Skua &amp; hub</h1><p>It has <b>four</b>
    lights.<br>Blue is slow.</p><script>alert("no")</script>
    <h2>Codes</h2><table><tr><td>E1</td><td>no net</td></tr></table><pre>a
      b</pre></body></html>"""

    document = read_document(write(tmp_path, "skua.html", page))

    assert document.title == "The Skua"
    assert said(document) == [
        ("Skua & hub", "Skua & hub\n\nIt has four lights.\nBlue is slow."),
        ("Skua & hub > Codes", "Codes\n\nE1 | no net"),
        ("Skua & hub > Codes", "a\n      b"),
    ]


def test_records_of_tables_and_json_lines_are_blocks(tmp_path):
    table = write(tmp_path, "a.csv", 'question,answer\n"How, long?","40\nminutes"\nWhat?,\n')
    lines = write(tmp_path, "a.jsonl", '{"q": "How?", "n": [1, 2]}\n\n{"q": "é"}\n')

    assert said(read_document(table)) == [
        ("", "question: How, long?\nanswer: 40\nminutes"),
        ("", "question: What?"),
    ]
    assert said(read_document(lines)) == [("", "q: How?\nn: [1, 2]"), ("", "q: é")]


def test_a_pdf_keeps_its_pages(tmp_path):
    document = read_document(write(tmp_path, "a.pdf", pdf("First page", "Second page")))

    assert [(block.page, document.text[block.start : block.end]) for block in document.blocks] == [
        (1, "First page"),
        (2, "Second page"),
    ]


def test_word_keeps_headings_and_tables(tmp_path):
    source = docx.Document()
    source.add_heading("Warranty", level=1)
    source.add_paragraph("Three years.")
    source.add_heading("Not covered", level=2)
    table = source.add_table(1, 2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "Salt", "never"
    source.save(tmp_path / "a.docx")

    assert said(read_document(tmp_path / "a.docx")) == [
        ("Warranty", "Warranty\n\nThree years."),
        ("Warranty > Not covered", "Not covered\n\nSalt | never"),
    ]


BROKEN = {
    "latin.txt": ("Übergröße".encode("latin-1"), "not UTF-8"),
    "empty.md": (b" \n", "holds no text"),
    "a.pdf": (b"%PDF-1.4 nothing more", "broken"),
    "b.pdf": (b"not a PDF at all", "broken"),
    "blank.pdf": (pdf(""), "holds no text"),
    "a.docx": (b"PK\x03\x04 not a zip", "not a Word file"),
    "a.jsonl": (b'{"a": 1}\n{"a": \n', "line 2"),
    "b.jsonl": (b"[1]\n", "not an object"),
    "a.csv": (b'a,b\n"open,1\n', "after line 1"),
    "a.xls": (b"x", "can't be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_the_reason(tmp_path, name):
    content, reason = BROKEN[name]

    with pytest.raises(BadData, match=reason) as caught:
        read_document(write(tmp_path, name, content))

    assert name in str(caught.value) and caught.value.fix


def test_a_cut_pdf_is_a_broken_file_wherever_it_is_cut(tmp_path):
    whole = pdf("First page", "Second page")
    for length in range(0, len(whole), 37):
        file = write(tmp_path, "cut.pdf", whole[:length])
        try:
            assert "page" in read_document(file).text
        except BadData as error:
            assert "cut.pdf" in error.what


def test_a_missing_library_is_told_with_the_command_that_installs_it(tmp_path):
    file = write(tmp_path, "a.pdf", pdf("text"))
    program = (
        "import sys; sys.modules['pypdf'] = None\n"
        "from pathlib import Path\n"
        "from burnish.core.errors import Unavailable\n"
        "from burnish.rag.readers import read_document\n"
        f"try: read_document(Path({str(file)!r}))\n"
        "except Unavailable as error: print(error)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert "pypdf" in done.stdout and "pip install 'burnish[rag]'" in done.stdout
