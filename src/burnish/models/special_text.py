"""The text of a special token, where somebody wrote it: read as text, so that it ends no turn.

Special tokens come from the chat template alone. In all that people, passages and tools say, a
mark is put behind the first character of each text that is a special token's; what is rendered is
then encoded in the parts between the marks, and none of them is the whole token.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

#: A noncharacter of Unicode, which no text holds that means something.
_MARK = "\ufdd0"


def guarded(tokenizer: PreTrainedTokenizerBase, value: Any) -> Any:
    """The value (texts within lists and mappings as well) with the marks in it."""
    if isinstance(value, str):
        return _marked(tokenizer, value)
    if isinstance(value, Mapping):
        return {guarded(tokenizer, k): guarded(tokenizer, inner) for k, inner in value.items()}
    if isinstance(value, Sequence):
        return [guarded(tokenizer, inner) for inner in value]
    return value


def parts_of(rendered: str) -> list[str]:
    """A rendered text in the parts that are encoded each by itself: mostly it is one."""
    return rendered.split(_MARK)


def without_marks(rendered: str) -> str:
    """A rendered text as people see it."""
    return rendered.replace(_MARK, "")


def _marked(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    text = text.replace(_MARK, "\ufffd")
    first, pattern = _special(tokenizer, len(tokenizer))
    if not any(sign in text for sign in first):
        return text
    places = [found.start() + 1 for found in pattern.finditer(text)]
    borders = zip([0, *places], [*places, len(text)], strict=True)
    return _MARK.join(text[begin:end] for begin, end in borders)


@lru_cache(maxsize=16)
def _special(
    tokenizer: PreTrainedTokenizerBase, count: int
) -> tuple[frozenset[str], re.Pattern[str]]:
    """What special tokens begin with, and what finds where one begins; `count` of tokens is for the
    cache alone, as tokens may be added."""
    added = tokenizer.added_tokens_decoder.values()
    texts = {token.content for token in added if token.special} | {*tokenizer.all_special_tokens}
    longer = sorted(text for text in texts if len(text) > 1)
    pattern = "|".join(map(re.escape, longer)) or r"\Z\A"
    return frozenset(text[0] for text in longer), re.compile(f"(?={pattern})")
