"""A token classifier as a folder: an artifact of kind `token_classifier`.

Its files are those of a classifier (models.heads.classifier). A text is read in overlapping windows
of as many tokens as the model takes; a word is classified in the window that shows more of its
context.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForTokenClassification
from transformers import PreTrainedTokenizerBase as Tokenizer

from burnish.core.errors import BadRecipe
from burnish.core.spans import Span, spans_from_tags
from burnish.models.artifact import Artifact
from burnish.models.heads.classifier import load_head_model, save_head_model
from burnish.models.local_models import LocalModel
from burnish.models.padding import pad_batch

#: Consecutive windows overlap by this fraction (1 / _OVERLAP) of a window.
_OVERLAP = 4

_CARD = """# A token classifier of {labels}, trained on {base}

`burnish serve {run}` answers with the labelled spans of a text as JSON; `burnish evaluate --source
{run}` measures it. It reads a text in windows of {most_tokens} tokens.
"""


@dataclass(frozen=True, slots=True)
class Word:
    """The unit that has one tag: its token's index in the window, and its characters in the
    text."""

    token: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens that are read at once, and the words among them that are classified here."""

    ids: tuple[int, ...]
    words: tuple[Word, ...]


class TokenClassifier:
    """Finds labelled spans in texts. `labels` are BIO tags; `subwords` selects which tokens have
    one."""

    def __init__(
        self, model: Any, tokenizer: Tokenizer, labels: Sequence[str], max_tokens: int,
        subwords: str,
    ) -> None:  # fmt: skip
        self.model, self.tokenizer = model.eval(), tokenizer
        self.labels, self.max_tokens, self.subwords = tuple(labels), max_tokens, subwords

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(int(weight.nbytes) for weight in self.model.parameters())

    @torch.inference_mode()
    def log_probs(self, texts: Sequence[str]) -> list[tuple[list[Word], torch.Tensor]]:
        """Return each text's words and their tags' natural log-probabilities (words, tags),
        float32."""
        results: list[tuple[list[Word], torch.Tensor]] = []
        for text in texts:
            windows = split_windows(text, self.tokenizer, self.max_tokens, self.subwords)
            parts = [torch.zeros(0, len(self.labels))]
            for window in windows:
                batch = pad_batch([window.ids], self.tokenizer)
                logits = self.model(**{k: v.to(self.model.device) for k, v in batch.items()}).logits
                token_indices = [word.token for word in window.words]
                parts.append(logits[0, token_indices].float().log_softmax(-1).cpu())
            results.append(
                ([word for window in windows for word in window.words], torch.cat(parts))
            )
        return results

    def spans(self, texts: Sequence[str]) -> list[tuple[Span, ...]]:
        """Return the labelled spans of each text, in order."""
        return [
            spans_from_tags(
                [self.labels[index] for index in logs.argmax(-1).tolist()],
                [(word.start, word.end) for word in words],
            )
            for words, logs in self.log_probs(texts)
        ]


def tag_words(words: Sequence[Word], spans: Sequence[Span]) -> list[str]:
    """Return the BIO tag of each word: that of the first span which shares a character with it."""
    tags, previous = [], None
    for word in words:
        span = next((s for s in spans if s.start < word.end and word.start < s.end), None)
        tags.append("O" if span is None else f"{'I' if span == previous else 'B'}-{span.label}")
        previous = span
    return tags


def split_windows(text: str, tokenizer: Tokenizer, most: int, subwords: str) -> list[Window]:
    """Split a text into windows of at most `most` tokens; each word is classified in exactly
    one."""
    encoding = tokenizer(
        text,
        truncation=True,
        max_length=most,
        stride=most // _OVERLAP,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    gather = _TAGGED_TOKENS[subwords]
    parts = [
        (tuple(encoding["input_ids"][number]), list(gather(text, encoding, number)))
        for number in range(len(encoding["input_ids"]))
    ]
    parts = [(ids, words) for ids, words in parts if words]
    # The overlap of two windows is divided between them at its middle.
    boundaries = [_window_boundary(one, other) for (_, one), (_, other) in pairwise(parts)]
    return [
        Window(ids, tuple(word for word in words if low <= word.start < high))
        for (ids, words), low, high in zip(
            parts, [0, *boundaries], [*boundaries, len(text) + 1], strict=True
        )
    ]


def _window_boundary(words: Sequence[Word], behind: Sequence[Word]) -> int:
    """Return where the second of two windows takes over: in the middle of their overlap."""
    shared = [word.start for word in behind if word.start <= words[-1].start]
    return shared[len(shared) // 2] if shared else behind[0].start


def _every_token(text: str, encoding: Any, number: int) -> Iterator[Word]:
    """Yield every token that stands for characters, without a space before it."""
    for index, (start, end) in enumerate(encoding["offset_mapping"][number]):
        piece = text[start:end]
        start += len(piece) - len(piece.lstrip())
        end -= len(piece) - len(piece.rstrip())
        if start < end:
            yield Word(index, start, end)


def _first_tokens(text: str, encoding: Any, number: int) -> Iterator[Word]:
    """Yield the first token of every word (as the tokenizer splits words), with the word's
    characters."""
    word_ids, previous = encoding.word_ids(number), None
    current: Word | None = None
    for word in _every_token(text, encoding, number):
        if current and word_ids[word.token] == previous:
            current = Word(current.token, current.start, word.end)
            continue
        if current:
            yield current
        current, previous = word, word_ids[word.token]
    if current:
        yield current


#: `subwords` → the tokens that have a tag.
_TAGGED_TOKENS: dict[str, Callable[[str, Any, int], Iterator[Word]]] = {
    "first": _first_tokens,
    "all": _every_token,
}


def check_has_offsets(tokenizer: Tokenizer, base: LocalModel) -> None:
    """Raise BadRecipe if the tokenizer has no character offsets."""
    if not tokenizer.is_fast:
        raise BadRecipe(
            f"The tokenizer of {base.name} has no character offsets.",
            "Name a model with a tokenizer.json in model.name: all-minilm-l6-v2",
        )


def save_token_classifier(
    folder: Path, classifier: TokenClassifier, base: LocalModel, lineage: Mapping[str, Any]
) -> Artifact:
    """Write a token classifier atomically; an older one in its place is replaced."""
    facts = {
        "kind": "token_classifier",
        "base": base.identity,
        "labels": list(classifier.labels),
        "max_tokens": classifier.max_tokens,
        "subwords": classifier.subwords,
        **lineage,
    }
    names = ", ".join(dict.fromkeys(tag[2:] for tag in classifier.labels if tag != "O"))
    run = lineage.get("run", folder.name)
    card = _CARD.format(labels=names, base=base.name, run=run, most_tokens=classifier.max_tokens)
    return save_head_model(folder, classifier.model, classifier.tokenizer, facts, card)


def load_token_classifier(artifact: Artifact) -> TokenClassifier:
    """Load a token classifier whose files `open_artifact` has checked, in float32.

    Raises NotFound or BadData if an adapter's base isn't here, or differs.
    """
    facts = artifact.lineage
    model, tokenizer = load_head_model(artifact, facts["labels"], AutoModelForTokenClassification)
    return TokenClassifier(
        model, tokenizer, facts["labels"], int(facts["max_tokens"]), facts["subwords"]
    )
