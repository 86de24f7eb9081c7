"""Passages follow the structure, fit the embedder, and lose nothing."""

import re

from hypothesis import given
from hypothesis import strategies as st

from burnish.rag.chunking import chunk_document
from burnish.rag.documents import Block, Document, DocumentBuilder


def words(text):
    return [match.span() for match in re.finditer(r"\S+", text)]


def texts(document, most):
    return [document.text[b.start : b.end] for b in chunk_document(document, words, most)]


def written(*parts):
    """A document of headings ("# One") and paragraphs."""
    draft = DocumentBuilder("title")
    for part in parts:
        marks = re.match(r"#*", part)[0]
        if marks:
            draft.add_heading(len(marks), part.strip("# "))
        else:
            draft.add_block(part)
    return draft.build()


def test_paragraphs_of_a_section_stay_together_as_long_as_they_fit():
    document = written("# One", "a b c", "d e f", "g h i", "# Two", "j k")

    assert texts(document, 8) == ["One\n\na b c\n\nd e f", "g h i", "Two\n\nj k"]
    found = chunk_document(document, words, 8)
    assert [block.headings for block in found] == [("One",), ("One",), ("Two",)]


def test_a_page_is_a_border():
    blocks = (Block(0, 1, (), 1), Block(2, 3, (), 2))

    assert len(chunk_document(Document("t", "a b", blocks), words, 100)) == 2


def test_only_a_long_paragraph_is_cut_at_a_sentence_with_a_small_overlap():
    sentence = "one two three four five six seven."
    document = written("short one", " ".join([sentence] * 10), "short two")

    found = texts(document, 15)

    assert found[0] == "short one" and found[-1].endswith("short two")
    parts = found[1:-1]
    assert len(parts) > 4
    for text in parts:
        assert text.endswith("seven.") and len(text.split()) <= 15
    assert sum(len(text.split()) for text in found) > 4 + 70, "neighbours overlap"


def test_a_giant_word_is_cut_too():
    found = texts(written("x" * 10_000), 20)

    assert len(found) > 5 and max(map(len, found)) <= 20 * 40


ANY_TEXT = st.text(st.sampled_from("ab .!?\n#é\u3000"), min_size=1, max_size=60)


@given(parts=st.lists(ANY_TEXT, min_size=1, max_size=12), most=st.integers(1, 12))
def test_all_of_the_text_lies_in_a_passage_and_none_is_too_long(parts, most):
    document = written(*parts)
    covered = [False] * len(document.text)

    for block in chunk_document(document, words, most):
        assert 0 <= block.start < block.end <= len(document.text)
        shown = document.text[block.start : block.end]
        assert len(words(shown)) <= most
        covered[block.start : block.end] = [True] * (block.end - block.start)

    missed = [c for c, seen in zip(document.text, covered, strict=True) if not seen]
    assert not "".join(missed).strip()
