"""Grounding: does an answer say what the passages say? A check without a second model.

It is the share of an answer's words that occur in the passages, by stems and without function
words, in the least supported sentence. A fabricated answer names things that the passages don't; an
answer that picks the wrong thing from the right passage isn't detected (figures:
docs/benchmarks/retrieval.md).
"""

import re
from collections.abc import Sequence

import tantivy

from burnish.rag.analysis import terms

#: Below this an answer is marked unsupported; calibrated on XQuAD (docs/benchmarks/retrieval.md).
LEAST_SUPPORT = 0.6
#: The number of a citation, which isn't a word of the answer.
_CITATION = re.compile(r"\[\d+\]")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def support(answer: str, passages: Sequence[str], question: str = "") -> float | None:
    """Return the support, 0 to 1, of the least supported sentence; None for an answer without
    content words.

    A word is looked up in all passages together; words of the question are ignored.
    """
    known = {stem for passage in passages for stem in _stems(passage)}
    question_stems = set(_stems(question))
    shares = []
    for sentence in _SENTENCE.split(_CITATION.sub(" ", answer)):
        stems = [stem for stem in _stems(sentence) if stem not in question_stems]
        if stems:
            shares.append(sum(stem in known for stem in stems) / len(stems))
    return min(shares, default=None)


def _stems(text: str) -> list[str]:
    """Return the content words as terms, in order, with repetitions."""
    text_terms = terms(text.encode("utf-8", "replace").decode("utf-8"))
    return list(_SAYING.analyze(" ".join(text_terms)))


#: English function words are ignored (they are their own stems).
_SAYING = (
    tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace())
    .filter(tantivy.Filter.stopword("english"))
    .build()
)
