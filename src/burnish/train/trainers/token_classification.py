"""`train.objective: token_classify`: a model with a head on every token, trained on the labelled
spans of texts (named entities)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForTokenClassification

from burnish.core.errors import BadData
from burnish.core.progress import progress, say
from burnish.core.recipe.objectives import TokenClassify
from burnish.core.records import Row
from burnish.core.runs import Run
from burnish.core.spans import Span
from burnish.engines.heads.base import said
from burnish.models.artifact import Artifact
from burnish.models.heads.classifier import headed_model
from burnish.models.heads.token_classifier import (
    TokenClassifier,
    Word,
    refuse_placeless,
    save_token_classifier,
    tags_of,
    windows_of,
)
from burnish.models.load import training_dtype
from burnish.train.loop.trainer import Course, Given
from burnish.train.trainers.base import (
    Heading,
    batch_of,
    begun,
    chunks_of,
    most_tokens,
    with_method,
)
from burnish.train.trainers.sequence_classification import class_weights

#: What torch's cross-entropy leaves out.
_UNTAGGED = -100


@dataclass(frozen=True, slots=True)
class Tagged:
    """A window of a text as tokens, and the number of the tag that each of them bears."""

    ids: tuple[int, ...]
    tags: tuple[int, ...]

    @property
    def texts(self) -> tuple[tuple[int, ...]]:
        """What it has to read, as other rows have it."""
        return (self.ids,)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenClassifying(Heading):
    """A token classifier in training; `weights` (tags,) are those of the tags' losses."""

    weights: torch.Tensor

    def _means(self, rows: Sequence[Tagged], learns: bool) -> dict[str, float]:
        """Cross-entropy, the mean over all words of the rows by their tags' weights (as torch's),
        and the share of the words whose likeliest tag is right."""
        place = self.weights.device
        texts = [row.ids for row in rows]
        whole = float(sum(self.weights[tag] for row in rows for tag in row.tags if tag >= 0))
        loss = right = 0.0
        for places in chunks_of(texts, self.settings.micro_batch_tokens):
            batch = batch_of([texts[one] for one in places], self.tokenizer, place)
            targets = torch.full_like(batch["input_ids"], _UNTAGGED)
            for number, one in enumerate(places):
                targets[number, : len(rows[one].tags)] = torch.tensor(rows[one].tags)
            logits = self.model(**batch).logits.float().flatten(0, 1)
            part = torch.nn.functional.cross_entropy(
                logits, targets.flatten(), weight=self.weights, reduction="sum"
            )
            if learns:
                (part / whole).backward()
                self.optimizer.collect()
            loss += float(part.detach()) / whole
            right += float((logits.argmax(-1) == targets.flatten()).sum())
        return {"loss": loss, "accuracy": right / sum(_words_in(row) for row in rows)}


def all_tags(rows: Sequence[Row]) -> tuple[str, ...]:
    """O, and B- and I- of every label of the rows, in order; training and serving count by them.

    Raises BadData for rows without spans, or if no row has one.
    """
    for row in rows:
        if row.spans is None:
            raise BadData(
                f"{row.id}: the row is no text with labelled spans.",
                'Write {"text": ..., "spans": [{"start": 0, "end": 5, "label": "person"}]}, or '
                '{"tokens": [...], "tags": [...]}.',
            )
    labels = sorted({span.label for row in rows for span in row.spans or ()})
    if not labels:
        raise BadData("No training row has a span; nothing is to be found.", "Add rows with spans.")
    return ("O", *(f"{kind}-{label}" for label in labels for kind in "BI"))


def _examples(given: Given) -> tuple[list[Tagged], list[Tagged]]:
    refuse_placeless(given.tokenizer, given.base)
    split = given.dataset.split
    tags = {tag: number for number, tag in enumerate(all_tags(split.train))}
    return _samples(split.train, tags, given), _samples(split.validation, tags, given)


def _samples(rows: Sequence[Row], tags: Mapping[str, int], given: Given) -> list[Tagged]:
    """The windows of the rows that have words. What can't be learnt as it is, is said."""
    objective = given.recipe.train.objective
    assert isinstance(objective, TokenClassify)
    found, torn, cut = [], 0, 0
    with progress("Reading", total=len(rows)) as bar:
        for row in rows:
            spans = [span for span in row.spans or () if f"B-{span.label}" in tags]
            windows = windows_of(
                said(row.prompt), given.tokenizer, most_tokens(given), objective.subwords
            )
            cut += len(windows) > 1
            words = [word for window in windows for word in window.words]
            own = dict(zip(words, tags_of(words, spans), strict=True))
            torn += len({span for span in spans if not _fits(span, words)})
            for window in windows:
                numbers = [_UNTAGGED] * len(window.ids)
                for word in window.words:
                    numbers[word.token] = tags[own[word]]
                found.append(Tagged(window.ids, tuple(numbers)))
            bar.advance()
    if cut:
        say(f"{cut} of {len(rows)} texts are read in windows of {most_tokens(given)} tokens.")
    if torn:
        say(f"{torn} spans begin or end inside a word; the whole word is learnt as theirs.")
    return found


def _fits(span: Span, words: Sequence[Word]) -> bool:
    return any(word.start == span.start for word in words) and any(
        word.end == span.end for word in words
    )


def _words_in(row: Tagged) -> int:
    return sum(tag >= 0 for tag in row.tags)


def _prepare(
    given: Given, run: Run, rows: Sequence[Tagged], validation: Sequence[Tagged]
) -> TokenClassifying:
    settings, tags = given.recipe.train, all_tags(given.dataset.split.train)
    assert isinstance(settings.objective, TokenClassify)
    dtype = training_dtype(given.recipe.model.dtype)
    model = headed_model(given.base, tags, given.tokenizer, dtype, AutoModelForTokenClassification)
    counted = [tag for row in rows for tag in row.tags if tag >= 0]
    weights = class_weights(counted, len(tags), settings.objective.class_weights).to(model.device)
    model = with_method(model, settings, "TOKEN_CLS")
    return begun(TokenClassifying, model, given, (rows, validation), weights=weights)


def _save(
    folder: Path, plan: TokenClassifying, given: Given, lineage: Mapping[str, Any]
) -> Artifact:
    objective = given.recipe.train.objective
    assert isinstance(objective, TokenClassify)
    tags = all_tags(given.dataset.split.train)
    trained = TokenClassifier(
        plan.model, given.tokenizer, tags, most_tokens(given), objective.subwords
    )
    return save_token_classifier(folder, trained, given.base, lineage)


TOKEN_CLASSIFY = Course(_examples, _prepare, _save)
