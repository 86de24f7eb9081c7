"""Does an answer say what the passages say? A check that needs no second model.

The share of an answer's words that stand in the passages, by stems and without function words, in
the sentence that has least of it. An answer made up beside the passages names things that they
don't; one that picks the wrong thing from the right passage isn't seen (figures:
docs/benchmarks/retrieval.md).
"""

import re
from collections.abc import Sequence

import tantivy

from burnish.rag.analysis import terms

#: Below this an answer is called unsupported; calibrated on XQuAD (docs/benchmarks/retrieval.md).
LEAST_SUPPORT = 0.6
#: The number of a citation, which is no word of the answer.
_CITATION = re.compile(r"\[\d+\]")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def support(answer: str, passages: Sequence[str], question: str = "") -> float | None:
    """0 to 1 for the least supported sentence; none if the answer has no word that says anything.

    A word is looked for in all passages together; words of the question are left out.
    """
    known = {stem for passage in passages for stem in _stems(passage)}
    asked = set(_stems(question))
    shares = []
    for sentence in _SENTENCE.split(_CITATION.sub(" ", answer)):
        said = [stem for stem in _stems(sentence) if stem not in asked]
        if said:
            shares.append(sum(stem in known for stem in said) / len(said))
    return min(shares, default=None)


def _stems(text: str) -> list[str]:
    """Words that say something, as terms, in order and each time."""
    read = terms(text.encode("utf-8", "replace").decode("utf-8"))
    return list(_SAYING.analyze(" ".join(read)))


#: English function words are no words of an answer (their stems are they themselves).
_SAYING = (
    tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace())
    .filter(tantivy.Filter.stopword("english"))
    .build()
)
