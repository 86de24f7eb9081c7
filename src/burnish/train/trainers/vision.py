"""The trainer of vision-language models: supervised fine-tuning on conversations with images.

Each row goes through the model's own forward pass by itself: models differ in how images become
tokens and in their attention masks. LoRA adapts the language model; the vision encoder stays as it
is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from burnish.core.progress import progress
from burnish.core.recipe.methods import Lora
from burnish.core.recipe.train import Train
from burnish.core.records import Row
from burnish.core.runs import Run
from burnish.models.artifact import Artifact
from burnish.models.chat_template import TokenizedRow, encode_row, process_prompt
from burnish.models.load import training_dtype
from burnish.models.vision import load_vision, save_vision
from burnish.train.adapters.registry import add_peft_adapter, lora_config
from burnish.train.batching.examples import reject_undesirable
from burnish.train.loop.trainer import Trainer
from burnish.train.trainers.base import EncoderModule, module_fields
from burnish.train.trainers.causal_lm import check_token_audit


@dataclass(frozen=True, slots=True)
class VisionExample:
    """A row as tokens, with the row itself for its images: as tensors, the images of all rows would
    fill the memory."""

    tokenized: TokenizedRow
    row: Row

    @property
    def texts(self) -> tuple[tuple[int, ...], ...]:
        """The row's tokens, as `HasTexts` wants them."""
        return (self.tokenized.ids,)


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionModule(EncoderModule[VisionExample]):
    """A vision-language model in training."""

    def _compute_metrics(self, rows: Sequence[VisionExample], learns: bool) -> dict[str, float]:
        """Return the cross-entropy, averaged over all target tokens by their weights."""
        total_weight = sum(sum(example.tokenized.weights) for example in rows)
        loss = 0.0
        for example in rows:
            row_loss = self._loss(example) / total_weight
            if learns:
                row_loss.backward()
                self.optimizer.accumulate()
            loss += float(row_loss.detach())
        return {"loss": loss}

    def _loss(self, example: VisionExample) -> torch.Tensor:
        """Return the loss summed over a row's target tokens; only they reach the vocabulary."""
        ids, weights = example.tokenized.ids, example.tokenized.weights
        targets = [position for position, weight in enumerate(weights) if weight > 0]
        device = self.model.device
        processed = process_prompt(self.tokenizer, example.row.prompt, example.row.tools)
        logits = self.model(
            **processed.inputs(ids, self.model),
            use_cache=False,
            logits_to_keep=torch.tensor(targets, device=device) - 1,
        ).logits[0]
        target_ids = torch.tensor([ids[n] for n in targets], device=device)
        losses = torch.nn.functional.cross_entropy(logits.float(), target_ids, reduction="none")
        return (losses * torch.tensor([weights[n] for n in targets], device=device)).sum()


class VisionTrainer(Trainer[VisionExample, VisionModule]):
    """Fine-tunes a vision-language model on conversations with images."""

    def tokenize(self) -> tuple[list[VisionExample], list[VisionExample]]:
        """Return the rows as examples, after the token audit."""
        split = self.context.dataset.split
        return self._tokenize_rows(split.train), self._tokenize_rows(split.validation)

    def _tokenize_rows(self, rows: Sequence[Row]) -> list[VisionExample]:
        """Raises AuditFailed, BadData."""
        context = self.context
        reject_undesirable(rows)
        check_token_audit(rows, context.tokenizer, context.recipe)
        examples = []
        with progress("Reading", total=len(rows)) as bar:
            for row in rows:
                # The whole row, not trimmed to its last target: its images are in the prompt.
                encoded = encode_row(context.tokenizer, row, context.recipe.train.max_length)
                examples.append(VisionExample(encoded, row))
                bar.advance()
        return examples

    def build(
        self,
        run: Run,
        train_rows: Sequence[VisionExample],
        validation_rows: Sequence[VisionExample],
    ) -> VisionModule:
        """Load the model, with adapters in its language model only."""
        context, base = self.context, self.context.base
        model = load_vision(base.path, base.name, training_dtype(context.recipe.model.dtype))
        model = _apply_adapter(model, context.recipe.train)
        return VisionModule(**module_fields(model, context, train_rows, validation_rows))

    def save(self, folder: Path, module: VisionModule, lineage: Mapping[str, Any]) -> Artifact:
        """Write the model or its adapter, with the image processor."""
        context = self.context
        return save_vision(folder, module.model, context.tokenizer, context.base, lineage)


def _apply_adapter(model: Any, settings: Train) -> Any:
    """Mark the trainable weights of the model."""
    if not isinstance(settings.method, Lora):
        model.requires_grad_(True)
        return model
    config = lora_config(settings.method)
    config.target_modules = _language_layers(model, settings.method)
    return add_peft_adapter(model, settings.method, config)


def _language_layers(model: Any, method: Lora) -> list[str]:
    """Return the full names of the linear layers of the language model that get an adapter: the
    vision encoder may have layers of the same names."""
    language = model.get_decoder()
    targets = method.targets
    layers = [
        name
        for name, layer in language.named_modules()
        if isinstance(layer, torch.nn.Linear)
        and (targets == ("all-linear",) or name.rpartition(".")[2] in targets)
    ]
    prefix = next(name for name, module in model.named_modules() if module is language)
    return [f"{prefix}.{name}" for name in layers] or list(targets)
