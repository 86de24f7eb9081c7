"""What the trainers of encoders, embedding models, encoder-decoders and vision models share."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypedDict, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import BadData
from burnish.core.progress import progress, say
from burnish.core.recipe.methods import Lora
from burnish.core.recipe.train import Train
from burnish.models.padding import pad_batch
from burnish.train.adapters.registry import add_peft_adapter, lora_config, trainable_weights
from burnish.train.batching.sampler import count_steps
from burnish.train.loop.context import TrainContext
from burnish.train.loop.loop import StepResult, TrainingModule
from burnish.train.optim.adamw import MasterAdamW


class HasTexts(Protocol):
    """An example with its texts as token ids."""

    @property
    def texts(self) -> tuple[tuple[int, ...], ...]:
        """The token ids of each text."""


TextsT = TypeVar("TextsT", bound=HasTexts)


@dataclass(frozen=True, slots=True)
class EncoderExample:
    """A row as tokens: one text with the number of its label, or texts that belong together
    (anchor, positive, perhaps negative) with the number of their subject."""

    texts: tuple[tuple[int, ...], ...]
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderModule(TrainingModule[TextsT]):
    """A model in training whose step is one pass over its rows, with or without gradients."""

    tokenizer: PreTrainedTokenizerBase

    def training_step(self, rows: Sequence[TextsT], step: int) -> StepResult:
        """Compute the gradients of one step, in passes of `micro_batch_tokens`."""
        self.model.train()
        return StepResult(self._compute_metrics(rows, learns=True), count_tokens(rows))

    @torch.no_grad()
    def validation_step(self, rows: Sequence[TextsT]) -> dict[str, float]:
        """Return the same metrics without gradients."""
        self.model.eval()
        return self._compute_metrics(rows, learns=False)

    @abstractmethod
    def _compute_metrics(self, rows: Sequence[TextsT], learns: bool) -> dict[str, float]:
        """Return the `loss` and more over the rows; accumulate gradients if `learns`."""


def count_tokens(rows: Sequence[HasTexts]) -> int:
    """Return the number of tokens of all texts of the rows."""
    return sum(len(text) for row in rows for text in row.texts)


def max_text_tokens(context: TrainContext) -> int:
    """Return the most tokens of a text: those that the recipe allows and the model reads."""
    return min(context.recipe.train.max_length, context.base.context_length or 512)


def encode_texts(
    texts: Sequence[str], context: TrainContext, label: str = "Reading"
) -> list[tuple[int, ...]]:
    """Tokenize texts, truncated to `max_text_tokens`; print how many were truncated."""
    max_tokens, encoded, truncated = max_text_tokens(context), [], 0
    with progress(label, total=len(texts)) as bar:
        for begin in range(0, len(texts), 256):
            chunk = list(texts[begin : begin + 256])
            whole = context.tokenizer(chunk, verbose=False)["input_ids"]
            truncated += sum(len(ids) > max_tokens for ids in whole)
            cut = context.tokenizer(chunk, truncation=True, max_length=max_tokens)["input_ids"]
            encoded += [tuple(ids) for ids in cut]
            bar.advance(len(chunk))
    if truncated:
        say(
            f"{truncated} of {len(texts)} texts are longer than {max_tokens} tokens; their ends "
            "aren't read."
        )
    return encoded


def batch_by_length(texts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
    """Return batches of indices of texts of like length, of at most `max_tokens` with padding."""
    batches: list[list[int]] = []
    for index in sorted(range(len(texts)), key=lambda index: len(texts[index])):
        # The newest text is the longest, so all others are padded to it.
        if batches and (len(batches[-1]) + 1) * len(texts[index]) <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def pad_to_device(
    texts: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> dict[str, torch.Tensor]:
    """Return tokens (texts, longest) with their mask, on `device`."""
    return {name: tensor.to(device) for name, tensor in pad_batch(texts, tokenizer).items()}


#: New heads that PEFT doesn't know: it would adapt them as well as train them.
_HEADS = {"TOKEN_CLS": ["classifier", "score"]}


def apply_adapter(model: Any, settings: Train, task: str) -> Any:
    """Mark the trainable weights of the model; `task` is PEFT's name of its task."""
    if not isinstance(settings.method, Lora):
        model.requires_grad_(True)
        return model
    config = lora_config(settings.method, task, _HEADS.get(task))
    return add_peft_adapter(model, settings.method, config)


class ModuleFields(TypedDict, Generic[TextsT]):
    """The fields that the modules of this folder have in common."""

    model: Any
    optimizer: MasterAdamW
    rows: Sequence[TextsT]
    validation: Sequence[TextsT]
    settings: Train
    tokenizer: PreTrainedTokenizerBase


def module_fields(
    model: Any,
    context: TrainContext,
    train_rows: Sequence[TextsT],
    validation_rows: Sequence[TextsT],
) -> ModuleFields[TextsT]:
    """Return the fields of a module around `model`, whose trainable weights are already marked.

    Raises BadData without training rows.
    """
    settings = context.recipe.train
    return ModuleFields(
        model=model,
        optimizer=make_optimizer(model, train_rows, settings),
        rows=train_rows,
        validation=validation_rows,
        settings=settings,
        tokenizer=context.tokenizer,
    )


def make_optimizer(model: Any, train_rows: Sequence[HasTexts], settings: Train) -> MasterAdamW:
    """Make AdamW for the trainable weights. Raises BadData without training rows."""
    if not train_rows:
        raise BadData("There are no training rows.", "Name a file with rows in data.train.")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    return MasterAdamW(trainable_weights(model), settings, count_steps(len(train_rows), settings))
