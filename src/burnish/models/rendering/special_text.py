"""Encode special-token texts written by users as plain text, so that they end no turn.

Special tokens come from the chat template alone. In everything that users, passages and tools
contribute, a marker is inserted behind the first character of each special token's text; the
rendered text is split at the markers before encoding, so no part is a whole special token.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

#: A Unicode noncharacter, which no meaningful text contains.
_MARK = "\ufdd0"


def guarded(tokenizer: PreTrainedTokenizerBase, value: Any) -> Any:
    """Return the value (also texts within lists and mappings) with markers inserted."""
    if isinstance(value, str):
        return _marked(tokenizer, value)
    if isinstance(value, Mapping):
        return {guarded(tokenizer, k): guarded(tokenizer, inner) for k, inner in value.items()}
    if isinstance(value, Sequence):
        return [guarded(tokenizer, inner) for inner in value]
    return value


def parts_of(rendered: str) -> list[str]:
    """Split rendered text at the markers into the parts to encode; mostly one."""
    return rendered.split(_MARK)


def without_marks(rendered: str) -> str:
    """Return rendered text without markers, for people."""
    return rendered.replace(_MARK, "")


def _marked(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    text = text.replace(_MARK, "\ufffd")
    first, pattern = _special(tokenizer, len(tokenizer))
    if not any(char in text for char in first):
        return text
    positions = [match.start() + 1 for match in pattern.finditer(text)]
    borders = zip([0, *positions], [*positions, len(text)], strict=True)
    return _MARK.join(text[begin:end] for begin, end in borders)


@lru_cache(maxsize=16)
def _special(
    tokenizer: PreTrainedTokenizerBase, count: int
) -> tuple[frozenset[str], re.Pattern[str]]:
    """Return the first characters of special tokens, and a pattern for their positions. `count` of
    tokens only keys the cache, as tokens may be added."""
    added = tokenizer.added_tokens_decoder.values()
    texts = {token.content for token in added if token.special} | {*tokenizer.all_special_tokens}
    longer = sorted(text for text in texts if len(text) > 1)
    pattern = "|".join(map(re.escape, longer)) or r"\Z\A"
    return frozenset(text[0] for text in longer), re.compile(f"(?={pattern})")
