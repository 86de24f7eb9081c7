"""Image preprocessing of vision-language models: images → model inputs and prompt tokens.

Each model's own `transformers` processor does the work, always in its Pillow variant, so that
training and serving use the same numbers whether torchvision is installed or not.
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

#: Prompts whose image tensors are cached: a request's prompt is read twice.
_CACHE_SIZE = 4
#: All images of a conversation are decoded at once, each in its original size.
_MAX_IMAGES = 32
_MAX_PIXELS = 100_000_000


@dataclass(frozen=True, slots=True)
class ProcessedPrompt:
    """A rendered text with its images, as the model takes it.

    `ids` are the text's tokens, image tokens included. `tensors` are the further inputs of the
    forward pass. `token_types` maps an argument's name to token → type (0 for all others).
    """

    ids: list[int]
    tensors: Mapping[str, torch.Tensor]
    token_types: Mapping[str, Mapping[int, int]]

    def inputs(self, ids: Sequence[int], model: Any) -> dict[str, torch.Tensor]:
        """Return the inputs of `model` for these tokens, which may continue the text's."""
        inputs = {"input_ids": torch.tensor([list(ids)]), **self.tensors}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        for name, kinds in self.token_types.items():
            inputs[name] = torch.tensor([[kinds.get(token, 0) for token in ids]])
        return {
            name: part.to(model.device, model.dtype if part.is_floating_point() else None)
            for name, part in inputs.items()
        }


class ImageProcessor:
    """A vision-language model's image processor, with a small cache."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self._kept: OrderedDict[tuple[str, tuple[Image, ...]], ProcessedPrompt] = OrderedDict()
        # A server renders in one thread and answers in another.
        self._lock = threading.Lock()
        names = ("image_token", "boi_token", "video_token")
        #: Texts that the processor replaces by an image.
        self.placeholders = frozenset(
            str(token) for name in names if (token := getattr(processor, name, None))
        )

    def process(self, text: str, images: Sequence[Image]) -> ProcessedPrompt:
        """Process a rendered text with its images. Raises BadData if the processor rejects them."""
        pixels = sum(image.pixels for image in images)
        if len(images) > _MAX_IMAGES or pixels > _MAX_PIXELS:
            raise BadData(
                f"A conversation has {len(images)} images with {pixels / 1e6:.0f} million "
                f"pixels; at most {_MAX_IMAGES} with {_MAX_PIXELS // 10**6} million are accepted.",
                "Leave some out, or make them smaller.",
            )
        key = (text, tuple(images))
        with self._lock:
            prompt = self._kept.pop(key, None)
        prompt = prompt or self._run_processor(text, images)
        with self._lock:
            self._kept[key] = prompt
            if len(self._kept) > _CACHE_SIZE:
                self._kept.popitem(last=False)
        return prompt

    def _run_processor(self, text: str, images: Sequence[Image]) -> ProcessedPrompt:
        decoded = [[decode_image(image.data) for image in images]] if images else None
        try:
            outputs = self.processor(
                text=[text], images=decoded, add_special_tokens=False, return_tensors="pt"
            )
        except (ValueError, IndexError, RuntimeError) as error:
            raise BadData(
                f"The model's processor rejects these images: {error}",
                "Send other images, or fewer.",
            ) from error
        ids = outputs.pop("input_ids")
        outputs.pop("attention_mask", None)
        token_types = {
            name: dict(zip(ids[0].tolist(), outputs.pop(name)[0].tolist(), strict=True))
            for name in list(outputs)
            if outputs[name].shape == ids.shape
        }
        return ProcessedPrompt(ids[0].tolist(), dict(outputs), token_types)


def _processor_of(folder: Path, base: Path) -> Any:
    """Load the processor in a folder, without its video part, which needs torchvision."""
    cls: Any = PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(base, local_files_only=True))]
    if "video_processor" in cls.get_attributes():
        parts = [name for name in cls.get_attributes() if name != "video_processor"]
        cls = type(cls.__name__, (cls,), {"get_attributes": classmethod(lambda _: parts)})
    return cls.from_pretrained(folder, local_files_only=True, backend="pil")


def image_processor_of(tokenizer: Tokenizer) -> ImageProcessor | None:
    """Return the image processor of the tokenizer's model; None for a text-only model."""
    processor: ImageProcessor | None = getattr(tokenizer, "sight", None)
    return processor


def load_vision_tokenizer(folder: Path, name: str, base: Path | None = None) -> Tokenizer:
    """Load the tokenizer of a vision-language model, with its image processor. `base` is the folder
    of an adapter's base, whose config tells the model type.

    Raises BadRecipe without a processor that works here, or without a chat template.
    """
    try:
        processor: Any = _processor_of(folder, base or folder)
    except (ImportError, ValueError, OSError, KeyError) as error:
        raise BadRecipe(
            f"transformers cannot process images for {name}: {error}",
            "Install what it asks for, or name another model.",
        ) from error
    tokenizer: Tokenizer = processor.tokenizer
    tokenizer.chat_template = processor.chat_template or tokenizer.chat_template
    if not tokenizer.chat_template:
        raise BadRecipe(
            f"{name} has no chat template, which would place the images.",
            "Use a model that was trained for conversations.",
        )
    tokenizer.sight = ImageProcessor(processor)
    return tokenizer
