"""Normal forms for comparing texts.

`normalize` ignores case, punctuation and articles, and preserves content: numbers keep their sign,
decimals and unit, words their marks, and no answer becomes empty. `squad_normalize` is SQuAD's, for
comparison with published results: there 3.5 is 35, -5 is 5 and C++ is C.
"""

import re
import string
import unicodedata

from burnish.core.scripts import spaced

_ARTICLES = frozenset(("a", "an", "the"))
_SQUADS_ARTICLES = re.compile(r"\b(a|an|the)\b")
#: Compatibility forms that differ in meaning from their parts: x² isn't x2, nor ½ 1/2.
_TELLING = ("<super>", "<sub>", "<fraction>", "<circle>")
_DASHES = {ord(sign): "-" for sign in "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"}
#: Thousands separators of English.
_THOUSANDS = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})++(?![\w,])")
_APART = re.compile(r"(?<=\d)\s(?=[%‰])")


def squad_normalize(text: str) -> str:
    """Return SQuAD's normal form (Rajpurkar et al. 2016): without case, punctuation, articles,
    extra space.

    Punctuation is that of all scripts, so that other languages are scored alike.
    """
    folded = unicodedata.normalize("NFKC", text).lower()
    letters = "".join(char for char in folded if not _is_punctuation(char))
    return " ".join(_SQUADS_ARTICLES.sub(" ", letters).split())


def normalize(text: str) -> str:
    """Return the safe normal form: no case, no extra space; no punctuation but that of numbers and
    names (`3.5`, `-5`, `50%`, `c++`, `c#`); no articles before another word; NFC. Never empty for a
    non-empty text."""
    folded = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), _folded(text))
    folded = _APART.sub("", folded)
    kept = (char if _says(folded, index) else "" for index, char in enumerate(folded))
    words = "".join(kept).split() or folded.split()
    last = len(words) - 1
    return " ".join(
        word for index, word in enumerate(words) if index == last or word not in _ARTICLES
    )


def tokens(normal: str) -> list[str]:
    """Return the words of a normal form; characters of unspaced scripts count as words, as in
    MLQA."""
    return spaced(normal).split()


def written_alike(text: str) -> str:
    """Return NFC without surrounding space: texts that look identical become equal."""
    return unicodedata.normalize("NFC", text).strip()


def unfenced(text: str) -> str:
    """Return the content of the code fence that an answer consists of, or the answer as it is."""
    stripped = text.strip()
    if len(stripped) < 6 or not (stripped.startswith("```") and stripped.endswith("```")):
        return text
    kind, line, body = stripped[3:-3].partition("\n")
    return body if line and kind.strip().lower() in ("", "json") else text


def _folded(text: str) -> str:
    """Remove case and forms of equal meaning (full width, ligatures); unify dashes."""
    if not text.isascii():
        text = "".join(map(_plain, unicodedata.normalize("NFC", text))).translate(_DASHES)
    return unicodedata.normalize("NFC", text.casefold())


def _plain(char: str) -> str:
    form = unicodedata.decomposition(char)
    if not form.startswith("<") or form.startswith(_TELLING):
        return char
    return unicodedata.normalize("NFKC", char)


def _says(text: str, index: int) -> bool:
    """Return whether a character is content at its position: letters and digits are, and
    punctuation that is part of a number or name."""
    char = text[index]
    if not unicodedata.category(char).startswith("P") and char != "`":
        return True
    before, after = text[index - 1 : index], text[index + 1 : index + 2]
    if before.isdigit() and after.isdigit():
        return True  # 3.5, 10:30, 2026-05-10
    starts_word = not before.isalnum() and before not in (".", "-", ")")
    if char in ".-" and starts_word:
        return _is_number(text[index + 1 : index + 4])
    if char in "%‰":
        return before.isdigit()
    return char == "#" and before.isalpha()


def _is_number(text: str) -> bool:
    """Return whether a text begins with a number, after an optional currency sign or point."""
    while text[:1] and (text[0] == "." or unicodedata.category(text[0]) == "Sc"):
        text = text[1:]
    return text[:1].isdigit()


def _is_punctuation(char: str) -> bool:
    return char in string.punctuation or unicodedata.category(char).startswith("P")
