"""Normal forms of texts that are compared: what is the same answer, and what isn't.

`normalize` forgives case, punctuation and articles, and never what an answer says: numbers keep
their sign, decimals and unit, words their marks, and no answer becomes empty. `squad_normalize` is
SQuAD's, for figures beside those of others: there 3.5 is 35, -5 is 5 and C++ is C.
"""

import re
import string
import unicodedata

from burnish.core.scripts import spaced

_ARTICLES = frozenset(("a", "an", "the"))
_SQUADS_ARTICLES = re.compile(r"\b(a|an|the)\b")
#: Compatibility forms that say something else than what they are made of: x² isn't x2, nor ½ 1/2.
_TELLING = ("<super>", "<sub>", "<fraction>", "<circle>")
_DASHES = {ord(sign): "-" for sign in "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"}
#: Commas between thousands, as English writes them.
_THOUSANDS = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})++(?![\w,])")
_APART = re.compile(r"(?<=\d)\s(?=[%‰])")


def squad_normalize(text: str) -> str:
    """SQuAD's normal form (Rajpurkar et al. 2016): no case, punctuation, articles, extra space.

    Punctuation is that of all scripts, so that other languages are scored alike.
    """
    folded = unicodedata.normalize("NFKC", text).lower()
    bare = "".join(sign for sign in folded if not _is_punctuation(sign))
    return " ".join(_SQUADS_ARTICLES.sub(" ", bare).split())


def normalize(text: str) -> str:
    """The safe normal form: no case, no extra space; no punctuation but that of numbers and names
    (`3.5`, `-5`, `50%`, `c++`, `c#`); no articles before another word; NFC. Never empty for a text
    that isn't."""
    folded = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), _folded(text))
    folded = _APART.sub("", folded)
    kept = (sign if _says(folded, at) else "" for at, sign in enumerate(folded))
    found = "".join(kept).split() or folded.split()
    last = len(found) - 1
    return " ".join(word for at, word in enumerate(found) if at == last or word not in _ARTICLES)


def tokens(normal: str) -> list[str]:
    """The words of a normal form; characters of unspaced scripts count as words, as in MLQA."""
    return spaced(normal).split()


def written_alike(text: str) -> str:
    """NFC without spaces around it: what nobody can tell apart by looking at it."""
    return unicodedata.normalize("NFC", text).strip()


def unfenced(text: str) -> str:
    """What stands in the code fence that an answer is, or the answer as it is."""
    bare = text.strip()
    if len(bare) < 6 or not (bare.startswith("```") and bare.endswith("```")):
        return text
    kind, line, body = bare[3:-3].partition("\n")
    return body if line and kind.strip().lower() in ("", "json") else text


def _folded(text: str) -> str:
    """Without case and without forms that mean the same (full width, ligatures); dashes are one."""
    if not text.isascii():
        text = "".join(map(_plain, unicodedata.normalize("NFC", text))).translate(_DASHES)
    return unicodedata.normalize("NFC", text.casefold())


def _plain(sign: str) -> str:
    form = unicodedata.decomposition(sign)
    if not form.startswith("<") or form.startswith(_TELLING):
        return sign
    return unicodedata.normalize("NFKC", sign)


def _says(text: str, at: int) -> bool:
    """Whether a sign says something where it stands: letters and digits do, and what is part of a
    number or of a name."""
    sign = text[at]
    if not unicodedata.category(sign).startswith("P") and sign != "`":
        return True
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    if before.isdigit() and after.isdigit():
        return True  # 3.5, 10:30, 2026-05-10
    begins = not before.isalnum() and before not in (".", "-", ")")
    if sign in ".-" and begins:
        return _is_number(text[at + 1 : at + 4])
    if sign in "%‰":
        return before.isdigit()
    return sign == "#" and before.isalpha()


def _is_number(text: str) -> bool:
    """Whether a text begins with a number, a currency or a point before it included."""
    while text[:1] and (text[0] == "." or unicodedata.category(text[0]) == "Sc"):
        text = text[1:]
    return text[:1].isdigit()


def _is_punctuation(sign: str) -> bool:
    return sign in string.punctuation or unicodedata.category(sign).startswith("P")
