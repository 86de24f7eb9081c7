"""Plain text longer than a row may be, in windows: all of it is learnt.

A window ends where a paragraph, a line or a word does, if one does in its last half. Only the last
one ends with the token that ends a text.
"""

from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from burnish.core.records import Row
from burnish.models.chat_template import encode_text, has_source

#: Characters that are read for each token there is room for: few tokens are longer.
_CHARACTERS = 16
#: Where a window best ends, best first.
_BORDERS = ("\n\n", "\n", " ")


def windows_of(tokenizer: PreTrainedTokenizerBase, row: Row, max_length: int) -> tuple[Row, ...]:
    """The row itself; or, for plain text of more than `max_length` tokens, rows that together hold
    its text, in order, each at most that long."""
    if row.text is None or has_source(tokenizer) or max_length < 2:
        return (row,)
    found: list[Row] = []
    rest = row.text
    most = max_length - 1  # one is left for the token that ends the text
    while True:
        end = _first(tokenizer, rest, most)
        if end >= len(rest):
            found.append(replace(row, text=rest))
            return tuple(found)
        found.append(replace(row, text=rest[:end], ends=False))
        rest = rest[end:]


def _first(tokenizer: PreTrainedTokenizerBase, text: str, most: int) -> int:
    """How many characters of the text, at least one, make a window of at most `most` tokens."""
    end = min(len(text), _CHARACTERS * most)
    while end > 1 and (count := len(encode_text(tokenizer, text[:end]))) > most:
        end = max(min(end - 1, end * most // count), 1)
    if end == len(text):
        return end
    for border in _BORDERS:
        place = text.rfind(border, end // 2, end)
        if place > 0:
            return place + len(border)
    return end
