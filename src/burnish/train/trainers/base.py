"""What training a head, an embedding model or an encoder-decoder have in common."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import BadData
from burnish.core.progress import progress, say
from burnish.core.recipe.methods import Lora
from burnish.core.recipe.train import Train
from burnish.models.padding import pad_batch
from burnish.train.adapters.registry import add_peft_adapter, lora_config, trainable_weights
from burnish.train.batching.sampler import count_steps
from burnish.train.loop.loop import StepResult, TrainingModule
from burnish.train.loop.trainer import TrainContext
from burnish.train.optim.adamw import MasterAdamW


@dataclass(frozen=True, slots=True)
class EncoderExample:
    """A row as tokens: one text with the number of its label, or texts that belong together
    (anchor, right, perhaps wrong) with the number of what they are about."""

    texts: tuple[tuple[int, ...], ...]
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderModule(TrainingModule):
    """A model in training that is no language model, on rows that have `texts` of tokens."""

    tokenizer: PreTrainedTokenizerBase

    def training_step(self, rows: Sequence[Any], step: int) -> StepResult:
        """Gradients of one step, in passes of `micro_batch_tokens`."""
        self.model.train()
        return StepResult(self._compute_metrics(rows, learns=True), count_tokens(rows))

    @torch.no_grad()
    def validation_step(self, rows: Sequence[Any]) -> dict[str, float]:
        """The same without learning."""
        self.model.eval()
        return self._compute_metrics(rows, learns=False)

    @abstractmethod
    def _compute_metrics(self, rows: Sequence[Any], learns: bool) -> dict[str, float]:
        """Loss and more over the rows; where it learns, gradients too."""


#: Some kind of training.
ModuleT = TypeVar("ModuleT", bound=TrainingModule)


def count_tokens(rows: Sequence[Any]) -> int:
    """Tokens of all texts of the rows."""
    return sum(len(text) for row in rows for text in row.texts)


def max_text_tokens(given: TrainContext) -> int:
    """Tokens of a text that count: what the recipe allows and the model reads."""
    return min(given.recipe.train.max_length, given.base.context_length or 512)


def encode_texts(
    texts: Sequence[str], given: TrainContext, label: str = "Reading"
) -> list[tuple[int, ...]]:
    """Texts as tokens, cut after `most_tokens`; how many were cut is said."""
    most, found, cut = max_text_tokens(given), [], 0
    with progress(label, total=len(texts)) as bar:
        for begin in range(0, len(texts), 256):
            some = list(texts[begin : begin + 256])
            whole = given.tokenizer(some, verbose=False)["input_ids"]
            cut += sum(len(ids) > most for ids in whole)
            ids = given.tokenizer(some, truncation=True, max_length=most)["input_ids"]
            found += [tuple(text) for text in ids]
            bar.advance(len(some))
    if cut:
        say(f"{cut} of {len(texts)} texts are longer than {most} tokens; their ends aren't read.")
    return found


def batch_by_length(texts: Sequence[Sequence[int]], most: int) -> list[list[int]]:
    """Places of texts of like length together, at most `most` tokens each with the padding."""
    chunks: list[list[int]] = []
    for place in sorted(range(len(texts)), key=lambda place: len(texts[place])):
        # The newest text is the longest, so all others are padded to it.
        if chunks and (len(chunks[-1]) + 1) * len(texts[place]) <= most:
            chunks[-1].append(place)
        else:
            chunks.append([place])
    return chunks


def pad_to_device(
    texts: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, place: torch.device
) -> dict[str, torch.Tensor]:
    """Tokens (texts, longest) with their mask, on the device `place`."""
    return {name: part.to(place) for name, part in pad_batch(texts, tokenizer).items()}


#: New heads that PEFT would adapt as well as train, for want of knowing them.
_NEW = {"TOKEN_CLS": ["classifier", "score"]}


def apply_adapter(model: Any, settings: Train, task: str) -> Any:
    """The model with its trainable weights marked; `task` is PEFT's name of what it is for."""
    if not isinstance(settings.method, Lora):
        model.requires_grad_(True)
        return model
    config = lora_config(settings.method, task, _NEW.get(task))
    return add_peft_adapter(model, settings.method, config)


def build_module(
    kind: Callable[..., ModuleT],
    model: Any,
    given: TrainContext,
    examples: tuple[Sequence[Any], Sequence[Any]],
    **own: Any,
) -> ModuleT:
    """A training of `kind` with a model whose trainable weights are marked; `examples` are to learn
    from and to validate by, `own` is what the kind has besides.

    Raises BadData if there is nothing to learn from.
    """
    settings = given.recipe.train
    return kind(
        model=model,
        optimizer=make_optimizer(model, examples[0], settings),
        rows=examples[0],
        validation=examples[1],
        settings=settings,
        tokenizer=given.tokenizer,
        **own,
    )


def make_optimizer(model: Any, rows: Sequence[Any], settings: Train) -> MasterAdamW:
    """AdamW for the weights that move. Raises BadData if there is nothing to learn from."""
    if not rows:
        raise BadData("There are no training rows.", "Name a file with rows in data.train.")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    return MasterAdamW(trainable_weights(model), settings, count_steps(len(rows), settings))
