"""Chunking: a document → passages of whole paragraphs of one section, as many as fit.

A passage never spans a heading or a page, so that a citation can name both. Only a paragraph that
is too long by itself is cut, at the end of a sentence or line if possible, and only then do
neighbours overlap.
"""

import re
from collections.abc import Callable, Sequence
from itertools import groupby

from burnish.rag.documents import Block, Document

#: Text → (start, end) of each token, in characters.
TokenSpans = Callable[[str], Sequence[tuple[int, int]]]

#: Share of a passage's tokens that the next part of a cut paragraph repeats.
_OVERLAP = 1 / 8
#: Embedders map a word of any length to one unknown token; longer words count as several.
_LONGEST_TOKEN = 40
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*\s+|\n\s*")


def chunk_document(document: Document, token_spans: TokenSpans, max_tokens: int) -> list[Block]:
    """Return the passages of a document, in order: at most `max_tokens` tokens each.

    Together they contain all non-white-space text.
    """
    passages: list[Block] = []
    for (headings, page), blocks in groupby(document.blocks, key=lambda b: (b.headings, b.page)):
        pieces = [
            piece
            for block in blocks
            for piece in _split_block(document, block, token_spans, max_tokens)
        ]
        open_start, open_end, size = 0, 0, 0
        for start, end, tokens in pieces:
            if size and (start < open_end or size + tokens > max_tokens):
                passages.append(Block(open_start, open_end, headings, page))
                size = 0
            open_start, open_end = (open_start if size else start), end
            size += tokens
        if size:
            passages.append(Block(open_start, open_end, headings, page))
    return passages


def _split_block(
    document: Document, block: Block, token_spans: TokenSpans, max_tokens: int
) -> list[tuple[int, int, int]]:
    """Return (start, end, tokens) of a block: itself, or overlapping parts of one that is too
    long."""
    text = document.text[block.start : block.end]
    starts = _token_starts(text, token_spans)
    if len(starts) <= max_tokens:
        return [(block.start, block.end, max(len(starts), 1))]
    pieces, first = [], 0
    while True:
        remaining = len(starts) - first
        begin = starts[first] if first else 0
        if remaining <= max_tokens:
            pieces.append((block.start + begin, block.end, remaining))
            return pieces
        cut = _find_cut(text, starts, first, first + max_tokens)
        end = begin + len(text[begin : starts[cut]].rstrip())
        pieces.append((block.start + begin, block.start + end, cut - first))
        first = _find_resume(text, starts, first, cut, int(max_tokens * _OVERLAP))


def _token_starts(text: str, token_spans: TokenSpans) -> list[int]:
    starts: list[int] = []
    for begin, end in token_spans(text):
        starts += range(begin, max(end, begin + 1), _LONGEST_TOKEN)
    return starts


def _find_cut(text: str, starts: Sequence[int], first: int, limit: int) -> int:
    """Return the token before which to cut: the last sentence end in the second half, else a
    word's."""
    half = (first + limit) // 2
    ends = {match.end() for match in _SENTENCE_END.finditer(text, starts[half], starts[limit])}
    for index in range(limit, half, -1):
        if starts[index] in ends:
            return index
    for index in range(limit, half, -1):
        if text[starts[index] - 1].isspace():
            return index
    return limit


def _find_resume(text: str, starts: Sequence[int], first: int, cut: int, overlap: int) -> int:
    """Return the token that begins the next part: a word's first, at most `overlap` before the
    cut."""
    for index in range(max(cut - overlap, first + 1), cut):
        if text[starts[index] - 1].isspace():
            return index
    return cut
