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
from burnish.engines.heads.base import user_text
from burnish.models.artifact import Artifact
from burnish.models.heads.classifier import build_head_model
from burnish.models.heads.token_classifier import (
    TokenClassifier,
    Word,
    check_has_offsets,
    save_token_classifier,
    split_windows,
    tag_words,
)
from burnish.models.load import training_dtype
from burnish.train.loop.trainer import TrainContext, Trainer
from burnish.train.trainers.base import (
    EncoderModule,
    apply_adapter,
    batch_by_length,
    build_module,
    max_text_tokens,
    pad_to_device,
)
from burnish.train.trainers.sequence_classification import class_weights

#: What torch's cross-entropy leaves out.
_UNTAGGED = -100


@dataclass(frozen=True, slots=True)
class TaggedWindow:
    """A window of a text as tokens, and the number of the tag that each of them bears."""

    ids: tuple[int, ...]
    tags: tuple[int, ...]

    @property
    def texts(self) -> tuple[tuple[int, ...]]:
        """What it has to read, as other rows have it."""
        return (self.ids,)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenClassifierModule(EncoderModule):
    """A token classifier in training; `weights` (tags,) are those of the tags' losses."""

    weights: torch.Tensor

    def _compute_metrics(self, rows: Sequence[TaggedWindow], learns: bool) -> dict[str, float]:
        """Cross-entropy, the mean over all words of the rows by their tags' weights (as torch's),
        and the share of the words whose likeliest tag is right."""
        place = self.weights.device
        texts = [row.ids for row in rows]
        whole = float(sum(self.weights[tag] for row in rows for tag in row.tags if tag >= 0))
        loss = right = 0.0
        for places in batch_by_length(texts, self.settings.micro_batch_tokens):
            batch = pad_to_device([texts[one] for one in places], self.tokenizer, place)
            targets = torch.full_like(batch["input_ids"], _UNTAGGED)
            for number, one in enumerate(places):
                targets[number, : len(rows[one].tags)] = torch.tensor(rows[one].tags)
            logits = self.model(**batch).logits.float().flatten(0, 1)
            part = torch.nn.functional.cross_entropy(
                logits, targets.flatten(), weight=self.weights, reduction="sum"
            )
            if learns:
                (part / whole).backward()
                self.optimizer.accumulate()
            loss += float(part.detach()) / whole
            right += float((logits.argmax(-1) == targets.flatten()).sum())
        return {"loss": loss, "accuracy": right / sum(_words_in(row) for row in rows)}


def collect_tags(rows: Sequence[Row]) -> tuple[str, ...]:
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


def _tokenize(given: TrainContext) -> tuple[list[TaggedWindow], list[TaggedWindow]]:
    check_has_offsets(given.tokenizer, given.base)
    split = given.dataset.split
    tags = {tag: number for number, tag in enumerate(collect_tags(split.train))}
    return _tokenize_rows(split.train, tags, given), _tokenize_rows(split.validation, tags, given)


def _tokenize_rows(
    rows: Sequence[Row], tags: Mapping[str, int], given: TrainContext
) -> list[TaggedWindow]:
    """The windows of the rows that have words. What can't be learnt as it is, is said."""
    objective = given.recipe.train.objective
    assert isinstance(objective, TokenClassify)
    found, torn, cut = [], 0, 0
    with progress("Reading", total=len(rows)) as bar:
        for row in rows:
            spans = [span for span in row.spans or () if f"B-{span.label}" in tags]
            windows = split_windows(
                user_text(row.prompt), given.tokenizer, max_text_tokens(given), objective.subwords
            )
            cut += len(windows) > 1
            words = [word for window in windows for word in window.words]
            own = dict(zip(words, tag_words(words, spans), strict=True))
            torn += len({span for span in spans if not _fits(span, words)})
            for window in windows:
                numbers = [_UNTAGGED] * len(window.ids)
                for word in window.words:
                    numbers[word.token] = tags[own[word]]
                found.append(TaggedWindow(window.ids, tuple(numbers)))
            bar.advance()
    if cut:
        say(f"{cut} of {len(rows)} texts are read in windows of {max_text_tokens(given)} tokens.")
    if torn:
        say(f"{torn} spans begin or end inside a word; the whole word is learnt as theirs.")
    return found


def _fits(span: Span, words: Sequence[Word]) -> bool:
    return any(word.start == span.start for word in words) and any(
        word.end == span.end for word in words
    )


def _words_in(row: TaggedWindow) -> int:
    return sum(tag >= 0 for tag in row.tags)


def _build(
    given: TrainContext, run: Run, rows: Sequence[TaggedWindow], validation: Sequence[TaggedWindow]
) -> TokenClassifierModule:
    settings, tags = given.recipe.train, collect_tags(given.dataset.split.train)
    assert isinstance(settings.objective, TokenClassify)
    dtype = training_dtype(given.recipe.model.dtype)
    model = build_head_model(
        given.base, tags, given.tokenizer, dtype, AutoModelForTokenClassification
    )
    counted = [tag for row in rows for tag in row.tags if tag >= 0]
    weights = class_weights(counted, len(tags), settings.objective.class_weights).to(model.device)
    model = apply_adapter(model, settings, "TOKEN_CLS")
    return build_module(TokenClassifierModule, model, given, (rows, validation), weights=weights)


def _save(
    folder: Path, plan: TokenClassifierModule, given: TrainContext, lineage: Mapping[str, Any]
) -> Artifact:
    objective = given.recipe.train.objective
    assert isinstance(objective, TokenClassify)
    tags = collect_tags(given.dataset.split.train)
    trained = TokenClassifier(
        plan.model, given.tokenizer, tags, max_text_tokens(given), objective.subwords
    )
    return save_token_classifier(folder, trained, given.base, lineage)


TOKEN_CLASSIFIER_TRAINER = Trainer(_tokenize, _build, _save)
