"""A model with a head on every token, as a folder: an artifact of kind `token_classifier`.

Its files are those of a classifier (models.classifier). A text is read in windows of as many tokens
as the model takes, each overlapping the next one; a word is judged where more stands around it.
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

#: Share of a window that the next one reads again.
_OVERLAP = 4

_CARD = """# A token classifier of {labels}, trained on {base}

`burnish serve {run}` answers with the labelled spans of a text as JSON; `burnish evaluate --source
{run}` measures it. It reads a text in windows of {most_tokens} tokens.
"""


@dataclass(frozen=True, slots=True)
class Word:
    """What bears one tag: its token's place in the window, and its characters in the text."""

    token: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens that are read at once, and the words of them that are judged here."""

    ids: tuple[int, ...]
    words: tuple[Word, ...]


class TokenClassifier:
    """Texts to labelled spans. `labels` are BIO tags; `subwords` says which tokens bear one."""

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
        """Each text's words and their tags' log-probabilities (words, tags), natural, float32."""
        found: list[tuple[list[Word], torch.Tensor]] = []
        for text in texts:
            windows = split_windows(text, self.tokenizer, self.max_tokens, self.subwords)
            parts = [torch.zeros(0, len(self.labels))]
            for window in windows:
                batch = pad_batch([window.ids], self.tokenizer)
                logits = self.model(**{k: v.to(self.model.device) for k, v in batch.items()}).logits
                places = [word.token for word in window.words]
                parts.append(logits[0, places].float().log_softmax(-1).cpu())
            found.append(([word for one in windows for word in one.words], torch.cat(parts)))
        return found

    def spans(self, texts: Sequence[str]) -> list[tuple[Span, ...]]:
        """The labelled spans of each text, in order."""
        return [
            spans_from_tags(
                [self.labels[place] for place in logs.argmax(-1).tolist()],
                [(word.start, word.end) for word in words],
            )
            for words, logs in self.log_probs(texts)
        ]


def tag_words(words: Sequence[Word], spans: Sequence[Span]) -> list[str]:
    """The BIO tag of each word: that of the span which has one of its characters."""
    found, before = [], None
    for word in words:
        own = next((s for s in spans if s.start < word.end and word.start < s.end), None)
        found.append("O" if own is None else f"{'I' if own == before else 'B'}-{own.label}")
        before = own
    return found


def split_windows(text: str, tokenizer: Tokenizer, most: int, subwords: str) -> list[Window]:
    """A text as windows of at most `most` tokens; each of its words is judged in one of them."""
    read = tokenizer(
        text,
        truncation=True,
        max_length=most,
        stride=most // _OVERLAP,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    gather = _TAGGED_TOKENS[subwords]
    parts = [
        (tuple(read["input_ids"][number]), list(gather(text, read, number)))
        for number in range(len(read["input_ids"]))
    ]
    parts = [(ids, words) for ids, words in parts if words]
    # Two windows share their overlap between them, each the part that lies deeper inside of it.
    borders = [_window_boundary(one, other) for (_, one), (_, other) in pairwise(parts)]
    return [
        Window(ids, tuple(word for word in words if low <= word.start < high))
        for (ids, words), low, high in zip(
            parts, [0, *borders], [*borders, len(text) + 1], strict=True
        )
    ]


def _window_boundary(words: Sequence[Word], behind: Sequence[Word]) -> int:
    """Where the second of two windows begins to judge: in the middle of what both read."""
    shared = [word.start for word in behind if word.start <= words[-1].start]
    return shared[len(shared) // 2] if shared else behind[0].start


def _every_token(text: str, read: Any, number: int) -> Iterator[Word]:
    """Every token that stands for characters; a space before it isn't one of them."""
    for place, (start, end) in enumerate(read["offset_mapping"][number]):
        own = text[start:end]
        start += len(own) - len(own.lstrip())
        end -= len(own) - len(own.rstrip())
        if start < end:
            yield Word(place, start, end)


def _first_tokens(text: str, read: Any, number: int) -> Iterator[Word]:
    """The first token of every word as the tokenizer knows words, with the word's characters."""
    known, before = read.word_ids(number), None
    held: Word | None = None
    for word in _every_token(text, read, number):
        if held and known[word.token] == before:
            held = Word(held.token, held.start, word.end)
            continue
        if held:
            yield held
        held, before = word, known[word.token]
    if held:
        yield held


#: `subwords` → what bears a tag.
_TAGGED_TOKENS: dict[str, Callable[[str, Any, int], Iterator[Word]]] = {
    "first": _first_tokens,
    "all": _every_token,
}


def check_has_offsets(tokenizer: Tokenizer, base: LocalModel) -> None:
    """Raise BadRecipe if the tokenizer doesn't say where its tokens stand."""
    if not tokenizer.is_fast:
        raise BadRecipe(
            f"The tokenizer of {base.name} doesn't say which characters a token stands for.",
            "Name a model with a tokenizer.json in model.name: all-minilm-l6-v2",
        )


def save_token_classifier(
    folder: Path, classifier: TokenClassifier, base: LocalModel, lineage: Mapping[str, Any]
) -> Artifact:
    """Write a token classifier, whole or not at all; an older one in its place is replaced."""
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
    """A token classifier that `open_artifact` has checked, in float32.

    Raises NotFound or BadData if an adapter's base isn't here, or is another one.
    """
    facts = artifact.lineage
    model, tokenizer = load_head_model(artifact, facts["labels"], AutoModelForTokenClassification)
    return TokenClassifier(
        model, tokenizer, facts["labels"], int(facts["max_tokens"]), facts["subwords"]
    )
