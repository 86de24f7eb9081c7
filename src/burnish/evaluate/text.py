"""Normalized text, as answers are compared."""

import re
import string
import unicodedata

_ARTICLES = re.compile(r"\b(a|an|the)\b")


#: Scripts without spaces between words: each sign counts as a word, as in MLQA.
UNSPACED = re.compile(r"([\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff])")


def normalize(text: str) -> str:
    """SQuAD's normal form (Rajpurkar et al. 2016): no case, punctuation, articles, extra space.

    Punctuation is that of all scripts, so that other languages are scored alike.
    """
    folded = unicodedata.normalize("NFKC", text).lower()
    bare = "".join(sign for sign in folded if not _is_punctuation(sign))
    return " ".join(_ARTICLES.sub(" ", bare).split())


def _is_punctuation(sign: str) -> bool:
    return sign in string.punctuation or unicodedata.category(sign).startswith("P")
