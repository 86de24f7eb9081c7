"""How a model sees: pictures to what its forward pass takes, and to tokens of its prompt.

Each model's own processor of `transformers` says how. Pictures are always prepared by its Pillow
variant, so that a model is asked with the numbers that it was trained with, whether torchvision is
there or not.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from burnish.core.errors import BadData, BadRecipe
from burnish.core.images import Image, decode_image

#: Prompts whose pictures are kept as tensors: a request's prompt is read twice.
_CACHE_SIZE = 4
#: All pictures of a conversation lie open at once, each then at a size of the model's own.
_MAX_IMAGES = 32
_MAX_PIXELS = 100_000_000


@dataclass(frozen=True, slots=True)
class ProcessedPrompt:
    """A rendered text with its pictures, as the model takes it.

    `ids` are the text's tokens, those that stand for pictures among them. `tensors` is what its
    forward pass is given besides, and `kinds` what each kind of token is called there, by name of
    the argument and token (0 for all others).
    """

    ids: list[int]
    tensors: Mapping[str, torch.Tensor]
    token_types: Mapping[str, Mapping[int, int]]

    def inputs(self, ids: Sequence[int], model: Any) -> dict[str, torch.Tensor]:
        """What `model` is given for these tokens, which may go on behind the text's."""
        found = {"input_ids": torch.tensor([list(ids)]), **self.tensors}
        found["attention_mask"] = torch.ones_like(found["input_ids"])
        for name, kinds in self.token_types.items():
            found[name] = torch.tensor([[kinds.get(token, 0) for token in ids]])
        return {
            name: part.to(model.device, model.dtype if part.is_floating_point() else None)
            for name, part in found.items()
        }


class ImageProcessor:
    """How a model sees: its processor."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self._kept: OrderedDict[tuple[str, tuple[Image, ...]], ProcessedPrompt] = OrderedDict()
        # A server renders in one thread and answers in another.
        self._lock = threading.Lock()
        names = ("image_token", "boi_token", "video_token")
        #: Texts that the processor takes for a picture.
        self.placeholders = frozenset(
            str(token) for name in names if (token := getattr(processor, name, None))
        )

    def process(self, text: str, pictures: Sequence[Image]) -> ProcessedPrompt:
        """A rendered text with its pictures. Raises BadData if the processor refuses them."""
        pixels = sum(picture.pixels for picture in pictures)
        if len(pictures) > _MAX_IMAGES or pixels > _MAX_PIXELS:
            raise BadData(
                f"A conversation has {len(pictures)} pictures with {pixels / 1e6:.0f} million "
                f"pixels; at most {_MAX_IMAGES} with {_MAX_PIXELS // 10**6} million are read.",
                "Leave some out, or make them smaller.",
            )
        key = (text, tuple(pictures))
        with self._lock:
            found = self._kept.pop(key, None)
        found = found or self._run_processor(text, pictures)
        with self._lock:
            self._kept[key] = found
            if len(self._kept) > _CACHE_SIZE:
                self._kept.popitem(last=False)
        return found

    def _run_processor(self, text: str, pictures: Sequence[Image]) -> ProcessedPrompt:
        images = [[decode_image(picture.data) for picture in pictures]] if pictures else None
        try:
            done = self.processor(
                text=[text], images=images, add_special_tokens=False, return_tensors="pt"
            )
        except (ValueError, IndexError, RuntimeError) as error:
            raise BadData(
                f"The model's processor refuses these pictures: {error}",
                "Send other pictures, or fewer.",
            ) from error
        ids = done.pop("input_ids")
        done.pop("attention_mask", None)
        kinds = {
            name: dict(zip(ids[0].tolist(), done.pop(name)[0].tolist(), strict=True))
            for name in list(done)
            if done[name].shape == ids.shape
        }
        return ProcessedPrompt(ids[0].tolist(), dict(done), kinds)


def _processor_of(folder: Path, base: Path) -> Any:
    """The processor in a folder, without the part for videos: it needs torchvision."""
    own: Any = PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(base, local_files_only=True))]
    if "video_processor" in own.get_attributes():
        parts = [name for name in own.get_attributes() if name != "video_processor"]
        own = type(own.__name__, (own,), {"get_attributes": classmethod(lambda _: parts)})
    return own.from_pretrained(folder, local_files_only=True, backend="pil")


def image_processor_of(tokenizer: Tokenizer) -> ImageProcessor | None:
    """How the tokenizer's model sees; None for one that reads text only."""
    found: ImageProcessor | None = getattr(tokenizer, "sight", None)
    return found


def load_vision_tokenizer(folder: Path, name: str, base: Path | None = None) -> Tokenizer:
    """The tokenizer of a model that sees, with its sight; `base` is the folder of an adapter's
    base, which says what kind of model it is.

    Raises BadRecipe without a processor that works here, or without a chat template.
    """
    try:
        processor: Any = _processor_of(folder, base or folder)
    except (ImportError, ValueError, OSError, KeyError) as error:
        raise BadRecipe(
            f"transformers cannot prepare pictures for {name}: {error}",
            "Install what it asks for, or name another model.",
        ) from error
    tokenizer: Tokenizer = processor.tokenizer
    tokenizer.chat_template = processor.chat_template or tokenizer.chat_template
    if not tokenizer.chat_template:
        raise BadRecipe(
            f"{name} has no chat template, so that nothing says where a picture stands.",
            "Name a model that was made for conversations.",
        )
    tokenizer.sight = ImageProcessor(processor)
    return tokenizer
