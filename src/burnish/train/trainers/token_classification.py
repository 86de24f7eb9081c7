"""The trainer of `train.objective: token_classify`: a head on every token, for labelled spans of
texts (named entities)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForTokenClassification

from burnish.core.errors import BadData
from burnish.core.progress import progress, say
from burnish.core.recipe.objectives import TokenClassify
from burnish.core.recipe.recipe import Recipe
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
from burnish.train.loop.trainer import Trainer
from burnish.train.trainers.base import (
    EncoderModule,
    apply_adapter,
    batch_by_length,
    max_text_tokens,
    module_fields,
    pad_to_device,
)
from burnish.train.trainers.sequence_classification import class_weights

#: The target that torch's cross-entropy ignores.
_UNTAGGED = -100


@dataclass(frozen=True, slots=True)
class TaggedWindow:
    """A window of a text as tokens, with the number of each token's tag."""

    ids: tuple[int, ...]
    tags: tuple[int, ...]

    @property
    def texts(self) -> tuple[tuple[int, ...]]:
        """The window's tokens, as `HasTexts` wants them."""
        return (self.ids,)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenClassifierModule(EncoderModule[TaggedWindow]):
    """A token classifier in training; `weights` (tags,) are those of the tags' losses."""

    weights: torch.Tensor

    def _compute_metrics(self, rows: Sequence[TaggedWindow], learns: bool) -> dict[str, float]:
        """Return the cross-entropy, averaged over all words by their tags' weights (as torch's),
        and the accuracy over words."""
        device = self.weights.device
        texts = [row.ids for row in rows]
        total_weight = float(sum(self.weights[tag] for row in rows for tag in row.tags if tag >= 0))
        loss = correct = 0.0
        for indices in batch_by_length(texts, self.settings.micro_batch_tokens):
            batch = pad_to_device([texts[index] for index in indices], self.tokenizer, device)
            targets = torch.full_like(batch["input_ids"], _UNTAGGED)
            for number, index in enumerate(indices):
                targets[number, : len(rows[index].tags)] = torch.tensor(rows[index].tags)
            logits = self.model(**batch).logits.float().flatten(0, 1)
            batch_loss = torch.nn.functional.cross_entropy(
                logits, targets.flatten(), weight=self.weights, reduction="sum"
            )
            if learns:
                (batch_loss / total_weight).backward()
                self.optimizer.accumulate()
            loss += float(batch_loss.detach()) / total_weight
            correct += float((logits.argmax(-1) == targets.flatten()).sum())
        return {"loss": loss, "accuracy": correct / sum(_word_count(row) for row in rows)}


def collect_tags(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return O, and B- and I- of every label of the rows, sorted; training and serving number them
    so.

    Raises BadData for rows without spans, or if no row has one.
    """
    for row in rows:
        if row.spans is None:
            raise BadData(
                f"{row.id}: the row isn't a text with labelled spans.",
                'Write {"text": ..., "spans": [{"start": 0, "end": 5, "label": "person"}]}, or '
                '{"tokens": [...], "tags": [...]}.',
            )
    labels = sorted({span.label for row in rows for span in row.spans or ()})
    if not labels:
        raise BadData("No training row has a span: there is nothing to find.", "Add spans to rows.")
    return ("O", *(f"{kind}-{label}" for label in labels for kind in "BI"))


class TokenClassifierTrainer(Trainer[TaggedWindow, TokenClassifierModule]):
    """Trains a model with a head on every token, on texts with labelled spans."""

    def tokenize(self) -> tuple[list[TaggedWindow], list[TaggedWindow]]:
        """Return the windows of the texts, with their words tagged."""
        check_has_offsets(self.context.tokenizer, self.context.base)
        split = self.context.dataset.split
        tags = {tag: number for number, tag in enumerate(collect_tags(split.train))}
        return self._tokenize_rows(split.train, tags), self._tokenize_rows(split.validation, tags)

    def _tokenize_rows(self, rows: Sequence[Row], tags: Mapping[str, int]) -> list[TaggedWindow]:
        """Return the windows that have words; print how many texts and spans don't fit as is."""
        context, subwords = self.context, _settings(self.context.recipe).subwords
        max_tokens = max_text_tokens(context)
        examples, torn, long_texts = [], 0, 0
        with progress("Reading", total=len(rows)) as bar:
            for row in rows:
                spans = [span for span in row.spans or () if f"B-{span.label}" in tags]
                text = user_text(row.prompt)
                windows = split_windows(text, context.tokenizer, max_tokens, subwords)
                long_texts += len(windows) > 1
                words = [word for window in windows for word in window.words]
                tag_of = dict(zip(words, tag_words(words, spans), strict=True))
                torn += len({span for span in spans if not _is_aligned(span, words)})
                for window in windows:
                    numbers = [_UNTAGGED] * len(window.ids)
                    for word in window.words:
                        numbers[word.token] = tags[tag_of[word]]
                    examples.append(TaggedWindow(window.ids, tuple(numbers)))
                bar.advance()
        if long_texts:
            say(f"{long_texts} of {len(rows)} texts are read in windows of {max_tokens} tokens.")
        if torn:
            say(f"{torn} spans begin or end inside a word; the whole word gets their label.")
        return examples

    def build(
        self,
        run: Run,
        train_rows: Sequence[TaggedWindow],
        validation_rows: Sequence[TaggedWindow],
    ) -> TokenClassifierModule:
        """Load the model with a new head on every token."""
        context, objective = self.context, _settings(self.context.recipe)
        tags = collect_tags(context.dataset.split.train)
        dtype = training_dtype(context.recipe.model.dtype)
        model = build_head_model(
            context.base, tags, context.tokenizer, dtype, AutoModelForTokenClassification
        )
        targets = [tag for row in train_rows for tag in row.tags if tag >= 0]
        weights = class_weights(targets, len(tags), objective.class_weights).to(model.device)
        model = apply_adapter(model, context.recipe.train, "TOKEN_CLS")
        return TokenClassifierModule(
            **module_fields(model, context, train_rows, validation_rows), weights=weights
        )

    def save(
        self, folder: Path, module: TokenClassifierModule, lineage: Mapping[str, Any]
    ) -> Artifact:
        """Write the token classifier with its tags."""
        context = self.context
        classifier = TokenClassifier(
            module.model,
            context.tokenizer,
            collect_tags(context.dataset.split.train),
            max_text_tokens(context),
            _settings(context.recipe).subwords,
        )
        return save_token_classifier(folder, classifier, context.base, lineage)


def _settings(recipe: Recipe) -> TokenClassify:
    assert isinstance(recipe.train.objective, TokenClassify)
    return recipe.train.objective


def _is_aligned(span: Span, words: Sequence[Word]) -> bool:
    """Return True if the span begins and ends where words do."""
    return any(word.start == span.start for word in words) and any(
        word.end == span.end for word in words
    )


def _word_count(row: TaggedWindow) -> int:
    return sum(tag >= 0 for tag in row.tags)
