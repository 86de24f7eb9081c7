"""A document → passages: whole paragraphs of one section, as many as fit.

A passage never reaches over a heading or a page, so that a citation can name both. Only a
paragraph that is too long by itself is cut, at the end of a sentence or line where there is one,
and only then do neighbours overlap.
"""

import re
from collections.abc import Callable, Sequence
from itertools import groupby

from burnish.rag.documents import Block, Document

#: Text → where each of its tokens begins and ends.
TokenSpans = Callable[[str], Sequence[tuple[int, int]]]

#: A cut paragraph's next passage repeats this share of the tokens.
_OVERLAP = 1 / 8
#: Embedders call a word of any length one unknown token; longer words count as several.
_LONGEST_TOKEN = 40
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*\s+|\n\s*")


def chunk_document(document: Document, token_spans: TokenSpans, max_tokens: int) -> list[Block]:
    """The passages of a document, in order: at most `most` tokens each.

    Together they hold all of the text that isn't white space.
    """
    found: list[Block] = []
    for (headings, page), blocks in groupby(document.blocks, key=lambda b: (b.headings, b.page)):
        pieces = [
            piece
            for block in blocks
            for piece in _split_block(document, block, token_spans, max_tokens)
        ]
        open_start, open_end, size = 0, 0, 0
        for start, end, tokens in pieces:
            if size and (start < open_end or size + tokens > max_tokens):
                found.append(Block(open_start, open_end, headings, page))
                size = 0
            open_start, open_end = (open_start if size else start), end
            size += tokens
        if size:
            found.append(Block(open_start, open_end, headings, page))
    return found


def _split_block(
    document: Document, block: Block, token_spans: TokenSpans, most: int
) -> list[tuple[int, int, int]]:
    """(start, end, tokens) of a block: itself, or overlapping parts of one that is too long."""
    text = document.text[block.start : block.end]
    starts = _token_starts(text, token_spans)
    if len(starts) <= most:
        return [(block.start, block.end, max(len(starts), 1))]
    pieces, first = [], 0
    while True:
        left = len(starts) - first
        begin = starts[first] if first else 0
        if left <= most:
            pieces.append((block.start + begin, block.end, left))
            return pieces
        cut = _find_cut(text, starts, first, first + most)
        end = begin + len(text[begin : starts[cut]].rstrip())
        pieces.append((block.start + begin, block.start + end, cut - first))
        first = _find_resume(text, starts, first, cut, int(most * _OVERLAP))


def _token_starts(text: str, token_spans: TokenSpans) -> list[int]:
    starts: list[int] = []
    for begin, end in token_spans(text):
        starts += range(begin, max(end, begin + 1), _LONGEST_TOKEN)
    return starts


def _find_cut(text: str, starts: Sequence[int], first: int, limit: int) -> int:
    """The token before which to cut: the last sentence end in the second half, else a word's."""
    half = (first + limit) // 2
    ends = {found.end() for found in _SENTENCE_END.finditer(text, starts[half], starts[limit])}
    for place in range(limit, half, -1):
        if starts[place] in ends:
            return place
    for place in range(limit, half, -1):
        if text[starts[place] - 1].isspace():
            return place
    return limit


def _find_resume(text: str, starts: Sequence[int], first: int, cut: int, overlap: int) -> int:
    """The token that begins the next part: a word's first, at most `overlap` before the cut."""
    for place in range(max(cut - overlap, first + 1), cut):
        if text[starts[place] - 1].isspace():
            return place
    return cut
