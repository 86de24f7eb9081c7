"""Every kind of file becomes text under headings, and a broken one says what is wrong with it."""

import subprocess
import sys
import time
import zipfile
from contextlib import suppress

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
    "empty.md": (b" \n", "contains no text"),
    "a.pdf": (b"%PDF-1.4 nothing more", "broken"),
    "b.pdf": (b"not a PDF at all", "broken"),
    "blank.pdf": (pdf(""), "contains no text"),
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


def word_file(path, body):
    """A Word file whose body is this XML."""
    docx.Document().save(path)
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    whole = members["word/document.xml"].decode()
    begin, end = whole.index("<w:body>") + 8, whole.index("<w:sectPr")
    members["word/document.xml"] = (whole[:begin] + body + whole[end:]).encode()
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            new.writestr(name, content)
    return path


def run_of(text, tag="t"):
    return f'<w:r><w:{tag} xml:space="preserve">{text}</w:{tag}></w:r>'


def test_word_is_read_with_its_changes_accepted(tmp_path):
    gone, new = run_of("ninety euros", "delText"), run_of("forty euros")
    moved = f"<w:moveFrom w:id='3'>{run_of('old place')}</w:moveFrom>"
    body = (
        f"<w:p>{run_of('The deposit is ')}<w:del w:id='1'>{gone}</w:del>"
        f"<w:ins w:id='2'>{new}</w:ins>{run_of(' per bicycle.')}{moved}</w:p>"
        f"<w:sdt><w:sdtContent><w:p>{run_of('In a control.')}</w:p></w:sdtContent></w:sdt>"
        "<w:tbl><w:tr><w:tc>"
        f"<w:p><w:ins w:id='4'>{run_of('Salt')}</w:ins></w:p></w:tc><w:tc><w:p>{run_of('never')}"
        "</w:p></w:tc></w:tr><w:tr><w:trPr><w:del w:id='5'/></w:trPr><w:tc><w:p>"
        f"{run_of('gone')}</w:p></w:tc></w:tr></w:tbl>"
    )

    document = read_document(word_file(tmp_path / "a.docx", body))

    assert document.text.split("\n\n")[:3] == [
        "The deposit is forty euros per bicycle.", "In a control.", "Salt | never",
    ]  # fmt: skip


def test_the_title_of_a_drawing_is_not_the_page_s(tmp_path):
    page = write(
        tmp_path,
        "a.html",
        "<title>Repairs at the depot</title><h1>Repairs</h1><p>Nine days.</p>"
        "<svg><title>Close icon</title><path/></svg><p>Ask at the counter.</p>",
    )

    document = read_document(page)

    assert document.title == "Repairs at the depot"
    assert "icon" not in document.text and "Ask at the counter." in document.text


def test_pages_without_text_are_named(tmp_path):
    document = read_document(write(tmp_path, "a.pdf", pdf("First page", "", "Third page", "")))

    assert document.notes and "pages 2, 4 hold no text" in document.notes[0]
    assert read_document(write(tmp_path, "b.pdf", pdf("One"))).notes == ()


def test_half_a_character_breaks_its_file_or_is_replaced(tmp_path):
    with pytest.raises(BadData, match="line 2"):
        read_document(write(tmp_path, "a.jsonl", '{"a": "b"}\n{"a": "c\\ud83d"}\n'))
    page = read_document(write(tmp_path, "a.html", "<p>half &#xD83D; emoji</p>"))
    assert page.text.encode()


@pytest.mark.parametrize("harm", ["lzma", "huge"])
def test_an_archive_that_cannot_be_unpacked_is_a_broken_file(tmp_path, harm):
    file = word_file(tmp_path / "a.docx", f"<w:p>{run_of('text')}</w:p>")
    with zipfile.ZipFile(file) as old:
        members = {name: old.read(name) for name in old.namelist()}
    packed = zipfile.ZIP_LZMA if harm == "lzma" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(file, "w", packed) as new:
        for name, content in members.items():
            new.writestr(name, content)
        if harm == "huge":
            new.writestr("word/media/a.bin", bytes(201_000_000))
    if harm == "lzma":
        content = bytearray(file.read_bytes())
        content[60:400] = bytes(340)
        file.write_bytes(content)

    with pytest.raises(BadData, match=r"a\.docx"):
        read_document(file)


SLOW = {
    "spaces": "a" + " " * 100_000 + "b",
    "lines": "a" + "\r\n" * 50_000 + "b",
    "tags": "<a " * 33_000,
    "comments": "<!--" * 25_000,
    "declarations": "<?" * 50_000,
    "nested": "<pre>x" * 16_000,
    "brackets": "[" * 100_000,
    "dashes": "---\n" * 25_000,
    "quotes": '"' * 99_999,
}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("kind", [".txt", ".md", ".html", ".csv", ".jsonl"])
def test_a_hundred_thousand_signs_are_read_in_no_time_whatever_they_are(tmp_path, kind, name):
    file = write(tmp_path, f"a{kind}", SLOW[name])
    began = time.process_time()

    with suppress(BadData):
        read_document(file)

    assert time.process_time() - began < 8, "quadratic ones take minutes"
