"""ROUGE by `rouge-score`, which loads nltk: whoever computes none needn't wait for it."""

import re

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

from burnish.evaluate.text import UNSPACED

_WORD = re.compile(r"[^\W_]+")


class _Words(Tokenizer):
    """Words of any script: `rouge-score` by itself drops all that isn't a-z, a whole Greek text."""

    def __init__(self) -> None:
        self.ascii = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """Words in lower case; those of ASCII are stemmed."""
        words = [UNSPACED.sub(r" \1 ", word) for word in _WORD.findall(text.lower())]
        return [
            part
            for word in words
            for part in (self.ascii.tokenize(word) if word.isascii() else word.split())
        ]


_LONGEST = RougeScorer(["rougeL"], tokenizer=_Words())


def rouge_l(expected: str, answer: str) -> float:
    """ROUGE-L F-measure of words of any script, those of ASCII stemmed."""
    return float(_LONGEST.score(expected, answer)["rougeL"].fmeasure)


def rouge(name: str, expected: str, answer: str) -> float:
    """The F-measure `name` (rouge1, ..., rougeL) as `rouge-score` has it."""
    return float(RougeScorer([name]).score(expected, answer)[name].fmeasure)
