"""Supervised fine-tuning of models that see, on conversations with pictures.

Each row goes through the model's own forward pass by itself: how pictures become tokens, and what
looks at what, is different in each of them. With LoRA, what learns is in the language model; the
part that sees stays as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from burnish.core.errors import BadRecipe
from burnish.core.progress import progress
from burnish.core.recipe.methods import Full, Lora
from burnish.core.recipe.objectives import Sft
from burnish.core.recipe.recipe import Recipe
from burnish.core.recipe.train import Train
from burnish.core.records import Row
from burnish.core.runs import Run
from burnish.models.artifact import Artifact
from burnish.models.chat_template import TokenizedRow, encode_row, process_prompt
from burnish.models.load import training_dtype
from burnish.models.local_models import LocalModel
from burnish.models.vision import load_vision, save_vision
from burnish.train.adapters.registry import add_peft_adapter, lora_config
from burnish.train.batching.examples import reject_undesirable
from burnish.train.loop.trainer import TrainContext, Trainer
from burnish.train.trainers.base import EncoderModule, build_module
from burnish.train.trainers.causal_lm import check_token_audit


@dataclass(frozen=True, slots=True)
class VisionExample:
    """A row as tokens, beside the row with its pictures: as tensors, those of all rows would fill
    the memory."""

    tokenized: TokenizedRow
    row: Row

    @property
    def texts(self) -> tuple[tuple[int, ...], ...]:
        """What it has to read, as other rows have it."""
        return (self.tokenized.ids,)


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionModule(EncoderModule):
    """A model that sees, in training."""

    def _compute_metrics(self, rows: Sequence[VisionExample], learns: bool) -> dict[str, float]:
        """Cross-entropy, the mean over all learnt tokens of the rows, by their weights."""
        whole = sum(sum(shown.tokenized.weights) for shown in rows)
        loss = 0.0
        for shown in rows:
            part = self._loss(shown) / whole
            if learns:
                part.backward()
                self.optimizer.accumulate()
            loss += float(part.detach())
        return {"loss": loss}

    def _loss(self, shown: VisionExample) -> torch.Tensor:
        """Summed over a row's learnt tokens; only they reach the vocabulary."""
        ids, weights = shown.tokenized.ids, shown.tokenized.weights
        learnt = [place for place, weight in enumerate(weights) if weight > 0]
        place = self.model.device
        seen = process_prompt(self.tokenizer, shown.row.prompt, shown.row.tools)
        logits = self.model(
            **seen.inputs(ids, self.model),
            use_cache=False,
            logits_to_keep=torch.tensor(learnt, device=place) - 1,
        ).logits[0]
        targets = torch.tensor([ids[n] for n in learnt], device=place)
        losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
        return (losses * torch.tensor([weights[n] for n in learnt], device=place)).sum()


def check_supported(recipe: Recipe, base: LocalModel) -> None:
    """Raise BadRecipe for what models that see are not trained with here."""
    if base.kind != "vision":
        return
    settings, method = recipe.train, recipe.train.method
    plain = (
        isinstance(method, Lora)
        and method.init == "zero"
        and not (method.init_from or method.stack_on)
    )
    others = (
        ("train.objective", settings.objective.kind, isinstance(settings.objective, Sft)),
        ("train.method", method.kind, plain or isinstance(method, Full)),
        ("train.parallel", settings.parallel, settings.parallel == "none"),
        ("train.gradient_checkpointing", "true", not settings.gradient_checkpointing),
        ("train.compile", "true", not settings.compile),
        ("train.group_by_prefix", "true", not settings.group_by_prefix),
        ("train.quantization_aware", settings.quantization_aware, not settings.quantization_aware),
    )
    for name, value, fits in others:
        if not fits:
            raise BadRecipe(
                f"{base.name} sees, and {name}={value} is for models that read text only.",
                "Leave it out: train.objective=sft, with train.method full, or lora as it begins "
                "at zero, by one process (docs/guides/vision.md).",
            )


def _tokenize(given: TrainContext) -> tuple[list[VisionExample], list[VisionExample]]:
    split = given.dataset.split
    return _tokenize_rows(split.train, given), _tokenize_rows(split.validation, given)


def _tokenize_rows(rows: Sequence[Row], given: TrainContext) -> list[VisionExample]:
    """Rows as tokens, after the token audit. Raises AuditFailed, BadData."""
    reject_undesirable(rows)
    check_token_audit(rows, given.tokenizer, given.recipe)
    found = []
    with progress("Reading", total=len(rows)) as bar:
        for row in rows:
            # Whole, with what comes behind the last learnt token: its pictures are in the prompt.
            encoded = encode_row(given.tokenizer, row, given.recipe.train.max_length)
            found.append(VisionExample(encoded, row))
            bar.advance()
    return found


def _build(
    given: TrainContext,
    run: Run,
    rows: Sequence[VisionExample],
    validation: Sequence[VisionExample],
) -> VisionModule:
    settings = given.recipe.train
    model = load_vision(given.base.path, given.base.name, training_dtype(given.recipe.model.dtype))
    return build_module(VisionModule, _apply_adapter(model, settings), given, (rows, validation))


def _apply_adapter(model: Any, settings: Train) -> Any:
    """The model with its trainable weights marked."""
    if not isinstance(settings.method, Lora):
        model.requires_grad_(True)
        return model
    config = lora_config(settings.method)
    config.target_modules = _language_layers(model, settings.method)
    return add_peft_adapter(model, settings.method, config)


def _language_layers(model: Any, method: Lora) -> list[str]:
    """The linear layers of its language model that get an adapter, by their whole names: the part
    that sees may have layers of the same."""
    language = model.get_decoder()
    wanted = method.targets
    found = [
        name
        for name, layer in language.named_modules()
        if isinstance(layer, torch.nn.Linear)
        and (wanted == ("all-linear",) or name.rpartition(".")[2] in wanted)
    ]
    before = next(name for name, part in model.named_modules() if part is language)
    return [f"{before}.{name}" for name in found] or list(wanted)


def _save(
    folder: Path, plan: VisionModule, given: TrainContext, lineage: Mapping[str, Any]
) -> Artifact:
    return save_vision(folder, plan.model, given.tokenizer, given.base, lineage)


VISION_TRAINER = Trainer(_tokenize, _build, _save)
