"""Words in any script: with their marks, and per character in scripts without spaces."""

import regex

_NAMES = ("Thai", "Lao", "Khmer", "Myanmar", "Tibetan", "Han", "Hiragana", "Katakana")
_SIGNS = "".join(rf"\p{{{name}}}" for name in _NAMES)

#: One character, marks and all, of a script that has no spaces between words (and Katakana's long
#: vowel, which Unicode counts as of no script).
UNSPACED = regex.compile(rf"[{_SIGNS}\u30fc]\p{{M}}*+")
#: A run of letters and digits of any script, with the marks that belong to them.
WORD = regex.compile(r"[\p{L}\p{N}][\p{L}\p{N}\p{M}]*+")


def spaced(text: str) -> str:
    """Put a space around each character of an unspaced script."""
    return text if text.isascii() else str(UNSPACED.sub(r" \g<0> ", text))


def words(text: str) -> list[str]:
    """Return the words of a text in order; each character of an unspaced script is a word."""
    return spaced(" ".join(WORD.findall(text))).split()
