"""A text as the terms by which it is found: by the script of each word, so that a question of two
words is read as the passage is, whatever language either is in.

Words lose case and accents; Latin ones get English stems, Greek, Cyrillic, Arabic and Tamil ones
those of Snowball (Greek, Russian, Arabic, Tamil). Scripts without spaces, and Korean with its
endings, give each character and each pair of neighbours (Manning et al. 2008, Introduction to
Information Retrieval, 2.2.1).
"""

import re
import unicodedata
from functools import cache, lru_cache
from itertools import pairwise

import regex
import tantivy

from burnish.core.scripts import UNSPACED, WORD

#: Script → the stems of its words.
_STEMS = {
    "Latin": "english",
    "Greek": "greek",
    "Cyrillic": "russian",
    "Arabic": "arabic",
    "Tamil": "tamil",
}
_SCRIPTS = {script: regex.compile(rf"\p{{{script}}}") for script in _STEMS}
#: Marks that a word is written with and without: those of Latin, Greek, Cyrillic, Hebrew, Arabic.
_MARKS = re.compile(
    "[\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20f0\ufe20-\ufe2f]"
)
#: A word of more characters is none.
_LONGEST = 100
_SIGN = regex.compile(rf"\p{{Hangul}}|{UNSPACED.pattern}")
_RUN = regex.compile(rf"(?:{_SIGN.pattern})++")


def terms(text: str) -> list[str]:
    """The terms of a passage, in order and each time."""
    return _terms(text, whole=True)


def question_terms(text: str) -> list[str]:
    """The terms of a question: of an unspaced script the pairs, and a character only if it stands
    alone."""
    return _terms(text, whole=False)


def _terms(text: str, whole: bool) -> list[str]:
    if text.isascii():
        return list(_analyzer("english").analyze(text))
    found: list[str] = []
    for word in WORD.findall(_folded(text)):
        if word.isascii():
            found += _analyzer("english").analyze(word)
        elif _SIGN.search(word):
            found += _unspaced(word, whole)
        elif len(word) <= _LONGEST:
            found += _stemmed(word)
    return found


def _folded(text: str) -> str:
    """Without case and accents. Й stays, as it is a letter of its own."""
    apart = unicodedata.normalize("NFKD", text.casefold()).replace("и\u0306", "й")
    return unicodedata.normalize("NFC", _MARKS.sub("", apart)).translate(_SAME)


#: Letters that are written for one another: the dotless i, and what tatweel only stretches.
_SAME = {ord("ı"): "i", ord("ς"): "σ", ord("ـ"): ""}


@lru_cache(maxsize=1 << 16)
def _stemmed(word: str) -> tuple[str, ...]:
    for script, found in _SCRIPTS.items():
        if found.search(word):
            return tuple(_analyzer(_STEMS[script]).analyze(word)) or (word,)
    return (word,)


def _unspaced(word: str, whole: bool) -> list[str]:
    """Characters and pairs of each run of an unspaced script; what stands between is a word."""
    found: list[str] = []
    place = 0
    for run in _RUN.finditer(word):
        found += _stemmed(word[place : run.start()]) if run.start() > place else ()
        signs = _SIGN.findall(run[0])
        found += signs if whole or len(signs) == 1 else ()
        found += [one + other for one, other in pairwise(signs)]
        place = run.end()
    return [*found, *(_stemmed(word[place:]) if place < len(word) else ())]


@cache
def _analyzer(language: str) -> tantivy.TextAnalyzer:
    """Words as letters and digits; a word of more than 100 bytes is none."""
    return (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        .filter(tantivy.Filter.remove_long(_LONGEST))
        .filter(tantivy.Filter.lowercase())
        .filter(tantivy.Filter.ascii_fold())
        .filter(tantivy.Filter.stemmer(language))
        .build()
    )
