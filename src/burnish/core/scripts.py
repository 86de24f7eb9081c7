"""Words in any script: with their marks, and per character in scripts without spaces."""

from collections import Counter
from functools import cache

import regex

_NAMES = ("Thai", "Lao", "Khmer", "Myanmar", "Tibetan", "Han", "Hiragana", "Katakana")
_SIGNS = "".join(rf"\p{{{name}}}" for name in _NAMES)

#: One character, marks and all, of a script that has no spaces between words (and Katakana's long
#: vowel, which Unicode counts as of no script).
UNSPACED = regex.compile(rf"[{_SIGNS}\u30fc]\p{{M}}*+")
#: A run of letters and digits of any script, with the marks that belong to them.
WORD = regex.compile(r"[\p{L}\p{N}][\p{L}\p{N}\p{M}]*+")

#: The scripts that are told apart, by their Unicode names.
SCRIPTS = (
    "Latin", "Greek", "Cyrillic", "Arabic", "Hebrew", "Han", "Hiragana", "Katakana", "Hangul",
    "Bopomofo", "Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu",
    "Kannada", "Malayalam", "Sinhala", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan", "Georgian",
    "Armenian", "Ethiopic", "Mongolian", "Syriac", "Thaana",
)  # fmt: skip
_OTHER_SCRIPT = "another script"
_LETTER = regex.compile(r"[\p{L}--[\p{Common}\p{Inherited}]]", regex.VERSION1)
_SCRIPT_PATTERNS = {name: regex.compile(rf"\p{{{name}}}") for name in SCRIPTS}


def count_letters(text: str) -> Counter[str]:
    """Return script → letters of the text in it; digits, marks and signs count nowhere."""
    letters: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if script := _find_script(character):
            letters[script] += count
    return letters


@cache
def _find_script(character: str) -> str:
    """Return the script of a letter; an empty text for every other character."""
    if not _LETTER.match(character):
        return ""
    matching = (name for name, known in _SCRIPT_PATTERNS.items() if known.match(character))
    return next(matching, _OTHER_SCRIPT)


def spaced(text: str) -> str:
    """Put a space around each character of an unspaced script."""
    return text if text.isascii() else str(UNSPACED.sub(r" \g<0> ", text))


def words(text: str) -> list[str]:
    """Return the words of a text in order; each character of an unspaced script is a word."""
    return spaced(" ".join(WORD.findall(text))).split()
