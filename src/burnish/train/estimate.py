"""What a training will need, reckoned from the model's shape before a weight is loaded.

Rougher than the forecast, which rehearses (train.forecast), and free: this is what `method: auto`
chooses by.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from burnish.core.training import Lora, LowRank, Qlora, Train
from burnish.models.load import training_dtype
from burnish.models.local import LocalModel
from burnish.train.adapters import METHODS

#: Bytes that Python, torch and the compiled layers take, and bitsandbytes on top of them; as seen
#: on Linux. A GPU holds none of it.
_PROCESS, _FOUR_BIT_PROCESS = 560e6, 200e6

#: Bytes of a 4-bit weight with its share of its block's scale, which is quantised or float32.
_FOUR_BITS = {True: 0.516, False: 0.5625}

#: How often a layer keeps what goes in and out of its products: 2 times was seen on SmolLM2, whose
#: layers are replaced (train.layers), 3.5 times on Gemma 3, whose are only in part.
_KEPT = 3.5

#: A number that moves has, beside itself, a float32 copy, a gradient and two moments.
_BESIDE = 16


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that memory depends on, in numbers; `linear` are those in the frozen layers'
    matrices, which 4 bits can hold."""

    layers: int
    hidden: int
    inner: int
    keys: int
    frozen: int
    linear: int
    moving: int


def shape_of(base: LocalModel, method: LowRank) -> Shape:
    """Sizes of a base with a method's adapters; no weight is read."""
    config = AutoConfig.from_pretrained(base.path, local_files_only=True)
    # What the adapters begin as changes no size.
    plain = Lora(rank=method.rank, targets=method.targets, ranks=method.ranks)
    with torch.device("meta"):
        model = METHODS["lora"](AutoModelForCausalLM.from_config(config), plain)
    head = model.get_output_embeddings()
    linear = sum(
        layer.weight.numel()
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and "lora_" not in name and layer is not head
    )
    text = config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shape(
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        inner=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        keys=width * (getattr(text, "num_key_value_heads", None) or text.num_attention_heads),
        frozen=sum(w.numel() for w in model.parameters() if not w.requires_grad),
        linear=linear,
        moving=sum(w.numel() for w in model.parameters() if w.requires_grad),
    )


def needed_memory(shape: Shape, settings: Train, dtype: Any) -> float:
    """Bytes at the peak of a LoRA or QLoRA training, rather too many than too few.

    Kept for the way back are, a layer and token, some times what goes in and out of its products;
    with gradient checkpointing what goes into each layer, and a few layers' insides.
    """
    size = training_dtype(dtype).itemsize
    four_bits = isinstance(settings.method, Qlora)
    packed = shape.linear if four_bits else 0
    weights: float = (shape.frozen - packed + shape.moving) * size + _BESIDE * shape.moving
    if isinstance(settings.method, Qlora):
        weights += packed * _FOUR_BITS[settings.method.double_quant]
    inside = _KEPT * size * (6 * shape.hidden + 3 * shape.inner + 2 * shape.keys)
    a_token: float = shape.layers * inside
    if settings.gradient_checkpointing:
        a_token = 2 * size * shape.layers * shape.hidden + 3 * inside
    process = _PROCESS + _FOUR_BIT_PROCESS * four_bits
    on_cpu = 0 if torch.cuda.is_available() else process
    return on_cpu + weights + settings.micro_batch_tokens * a_token
