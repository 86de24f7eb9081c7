"""Text analysis for word search: terms by the script of each word, so that questions and passages
are analyzed alike in any language.

Words lose case and accents; Latin ones get English stems, Greek, Cyrillic, Arabic and Tamil ones
those of Snowball (Greek, Russian, Arabic, Tamil). Scripts without spaces, and Korean with its
endings, give single characters and pairs of neighbours (Manning et al. 2008, Introduction to
Information Retrieval, 2.2.1).
"""

import re
import unicodedata
from functools import cache, lru_cache
from itertools import pairwise

import regex
import tantivy

from burnish.core.scripts import UNSPACED, WORD

#: Script → the language of its stemmer.
_STEMS = {
    "Latin": "english",
    "Greek": "greek",
    "Cyrillic": "russian",
    "Arabic": "arabic",
    "Tamil": "tamil",
}
_SCRIPTS = {script: regex.compile(rf"\p{{{script}}}") for script in _STEMS}
#: Optional diacritics of Latin, Greek, Cyrillic, Hebrew and Arabic.
_MARKS = re.compile(
    "[\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20f0\ufe20-\ufe2f]"
)
#: Longer words are ignored.
_LONGEST = 100
_SIGN = regex.compile(rf"\p{{Hangul}}|{UNSPACED.pattern}")
_RUN = regex.compile(rf"(?:{_SIGN.pattern})++")


def terms(text: str) -> list[str]:
    """Return the terms of a passage, in order, with repetitions."""
    return _terms(text, whole=True)


def question_terms(text: str) -> list[str]:
    """Return the terms of a question: of an unspaced script the pairs, and single characters only
    if they stand alone."""
    return _terms(text, whole=False)


def _terms(text: str, whole: bool) -> list[str]:
    if text.isascii():
        return list(_analyzer("english").analyze(text))
    result: list[str] = []
    for word in WORD.findall(_folded(text)):
        if word.isascii():
            result += _analyzer("english").analyze(word)
        elif _SIGN.search(word):
            result += _unspaced(word, whole)
        elif len(word) <= _LONGEST:
            result += _stemmed(word)
    return result


def _folded(text: str) -> str:
    """Remove case and accents. Й stays, as it is a letter of its own."""
    decomposed = unicodedata.normalize("NFKD", text.casefold()).replace("и\u0306", "й")
    return unicodedata.normalize("NFC", _MARKS.sub("", decomposed)).translate(_SAME)


#: Letters that are interchangeable: the dotless i, final sigma, and the purely visual tatweel.
_SAME = {ord("ı"): "i", ord("ς"): "σ", ord("ـ"): ""}


@lru_cache(maxsize=1 << 16)
def _stemmed(word: str) -> tuple[str, ...]:
    for script, pattern in _SCRIPTS.items():
        if pattern.search(word):
            return tuple(_analyzer(_STEMS[script]).analyze(word)) or (word,)
    return (word,)


def _unspaced(word: str, whole: bool) -> list[str]:
    """Return characters and pairs of each run of an unspaced script; the rest is split into
    words."""
    result: list[str] = []
    position = 0
    for run in _RUN.finditer(word):
        result += _stemmed(word[position : run.start()]) if run.start() > position else ()
        chars = _SIGN.findall(run[0])
        result += chars if whole or len(chars) == 1 else ()
        result += [first + second for first, second in pairwise(chars)]
        position = run.end()
    return [*result, *(_stemmed(word[position:]) if position < len(word) else ())]


@cache
def _analyzer(language: str) -> tantivy.TextAnalyzer:
    """Return an analyzer for words of letters and digits; longer than 100 bytes are ignored."""
    return (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        .filter(tantivy.Filter.remove_long(_LONGEST))
        .filter(tantivy.Filter.lowercase())
        .filter(tantivy.Filter.ascii_fold())
        .filter(tantivy.Filter.stemmer(language))
        .build()
    )
