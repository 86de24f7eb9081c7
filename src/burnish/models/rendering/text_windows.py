"""Split plain text longer than a row into windows, so that all of it is trained.

A window ends at a paragraph, line or word boundary in its last half, if there is one. Only the last
window ends with the end-of-text token.
"""

from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from burnish.core.records import Row
from burnish.models.chat_template import encode_text, has_source

#: Characters examined per token of the window: few tokens are longer.
_CHARACTERS = 16
#: Preferred boundaries, best first.
_BORDERS = ("\n\n", "\n", " ")


def windows_of(tokenizer: PreTrainedTokenizerBase, row: Row, max_length: int) -> tuple[Row, ...]:
    """Return the row itself; or, for plain text of more than `max_length` tokens, rows that
    together hold its text, in order, each at most that long."""
    if row.text is None or has_source(tokenizer) or max_length < 2:
        return (row,)
    windows: list[Row] = []
    rest = row.text
    max_tokens = max_length - 1  # one is reserved for the end-of-text token
    while True:
        end = _first(tokenizer, rest, max_tokens)
        if end >= len(rest):
            windows.append(replace(row, text=rest))
            return tuple(windows)
        windows.append(replace(row, text=rest[:end], ends=False))
        rest = rest[end:]


def _first(tokenizer: PreTrainedTokenizerBase, text: str, most: int) -> int:
    """Return the number of characters, at least one, of a first window of at most `most` tokens."""
    end = min(len(text), _CHARACTERS * most)
    while end > 1 and (count := len(encode_text(tokenizer, text[:end]))) > most:
        end = max(min(end - 1, end * most // count), 1)
    if end == len(text):
        return end
    for boundary in _BORDERS:
        position = text.rfind(boundary, end // 2, end)
        if position > 0:
            return position + len(boundary)
    return end
