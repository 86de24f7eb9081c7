"""ROUGE by `rouge-score`; kept apart because importing nltk is slow."""

import unicodedata

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

from burnish.core.scripts import words


class _Words(Tokenizer):
    """Tokenizes words of any script, with their marks: `rouge-score` itself drops everything but
    a-z, a whole Greek text. ASCII words are left to it."""

    def __init__(self, stemmed: bool) -> None:
        self.ascii = DefaultTokenizer(use_stemmer=stemmed)

    def tokenize(self, text: str) -> list[str]:
        """Return the words in lower case."""
        folded = unicodedata.normalize("NFC", text).lower()
        if folded.isascii():
            return list(self.ascii.tokenize(folded))
        groups = (
            [word] if not word.isascii() else self.ascii.tokenize(word) for word in words(folded)
        )
        return [token for tokens in groups for token in tokens]


_LONGEST = RougeScorer(["rougeL"], tokenizer=_Words(stemmed=True))


def rouge_l(expected: str, answer: str) -> float:
    """Return the ROUGE-L F-measure of words of any script, ASCII words stemmed."""
    return float(_LONGEST.score(expected, answer)["rougeL"].fmeasure)


def rouge(name: str, expected: str, answer: str) -> float:
    """Return the F-measure `name` (rouge1, ..., rougeL) of words of any script, unstemmed."""
    scorer = RougeScorer([name], tokenizer=_Words(stemmed=False))
    return float(scorer.score(expected, answer)[name].fmeasure)
