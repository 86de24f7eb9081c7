"""ROUGE by `rouge-score`, which loads nltk: whoever computes none needn't wait for it."""

import unicodedata

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

from burnish.core.scripts import words


class _Words(Tokenizer):
    """Words of any script, with their marks: `rouge-score` by itself drops all that isn't a-z, a
    whole Greek text. What is ASCII it reads by itself."""

    def __init__(self, stemmed: bool) -> None:
        self.ascii = DefaultTokenizer(use_stemmer=stemmed)

    def tokenize(self, text: str) -> list[str]:
        """Words in lower case."""
        folded = unicodedata.normalize("NFC", text).lower()
        if folded.isascii():
            return list(self.ascii.tokenize(folded))
        parts = (
            [word] if not word.isascii() else self.ascii.tokenize(word) for word in words(folded)
        )
        return [part for some in parts for part in some]


_LONGEST = RougeScorer(["rougeL"], tokenizer=_Words(stemmed=True))


def rouge_l(expected: str, answer: str) -> float:
    """ROUGE-L F-measure of words of any script, those of ASCII stemmed."""
    return float(_LONGEST.score(expected, answer)["rougeL"].fmeasure)


def rouge(name: str, expected: str, answer: str) -> float:
    """The F-measure `name` (rouge1, ..., rougeL) of words of any script, none of them stemmed."""
    scorer = RougeScorer([name], tokenizer=_Words(stemmed=False))
    return float(scorer.score(expected, answer)[name].fmeasure)
