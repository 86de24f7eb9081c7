"""What a training will need, reckoned from the model's shape before a weight is loaded.

Rougher than the forecast, which rehearses (train.forecast), and free: this is what `method: auto`
chooses by, and what the table of larger models is made of (train.memory_table).

A number that moves is held in five ways (ZeRO, Rajbhandari et al. 2020, arXiv:1910.02054, section
3.1; here with a float32 sum of the gradients besides): the weight, the gradient of one pass, that
sum, a float32 copy, and AdamW's two moments. Stage 1 divides copy and moments by the number of
devices, stage 2 the summed gradients too, stage 3 the weights and their gradients too (figure 1).
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from burnish.core.recipe.methods import Full, Lora, LowRank, Qlora
from burnish.core.recipe.train import Train
from burnish.models.load import training_dtype
from burnish.models.local_models import LocalModel
from burnish.train.adapters.registry import METHODS

#: Bytes that Python, torch and the compiled layers take, whether one process trains or several, and
#: bitsandbytes on top of them; as seen on Linux. A GPU holds none of it.
_PROCESS, _FOUR_BIT_PROCESS = 670e6, 200e6

#: Bytes of a 4-bit weight with its share of its block's scale, which is quantised or float32.
_FOUR_BITS = {True: 0.516, False: 0.5625}

#: How often a layer keeps what goes in and out of its products: 2 times was seen on SmolLM2, whose
#: layers are replaced (train.layers), 3.5 times on Gemma 3, whose are only in part.
_KEPT = 3.5

#: Bytes that a number which moves has beside itself and the gradient of one pass: float32.
_COPY, _MOMENTS, _GRADIENT = 4, 8, 4
#: Bytes of both moments in 8 bits, with their share of their blocks' scales.
_ROUNDED_MOMENTS = 2.03

#: `train.parallel` → what each device holds a share of (Rajbhandari et al. 2020, fig. 1).
_SHARED = {
    "none": (),
    "ddp": (),
    "zero1": ("copy",),
    "zero2": ("copy", "gradient"),
    "zero3": ("copy", "gradient", "weights"),
    "fsdp": ("copy", "gradient", "weights"),
}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes that memory depends on, in numbers; `linear` are those in the frozen layers'
    matrices, which 4 bits can hold."""

    layers: int
    hidden: int
    intermediate: int
    key_value_width: int
    frozen: int
    linear: int
    trainable: int


def model_shape(base: LocalModel, method: LowRank | Full) -> ModelShape:
    """Sizes of a base with what a method moves; no weight is read."""
    config = AutoConfig.from_pretrained(base.path, local_files_only=True)
    return shape_from_config(config, method)


def shape_from_config(config: Any, method: LowRank | Full) -> ModelShape:
    """The same, of a model with that configuration of `transformers`."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
        if isinstance(method, LowRank):
            # What the adapters begin as changes no size.
            plain = Lora(rank=method.rank, targets=method.targets, ranks=method.ranks)
            model = METHODS["lora"](model, plain).model
    head = model.get_output_embeddings()
    linear = sum(
        layer.weight.numel()
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and "lora_" not in name and layer is not head
    )
    text = config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return ModelShape(
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        key_value_width=width
        * (getattr(text, "num_key_value_heads", None) or text.num_attention_heads),
        frozen=sum(w.numel() for w in model.parameters() if not w.requires_grad),
        linear=linear,
        trainable=sum(w.numel() for w in model.parameters() if w.requires_grad),
    )


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes at the peak of a training on each of its devices, by what holds them. `process` is main
    memory that Python and torch take."""

    process: float
    parameters: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def on_device(self) -> float:
        """Bytes of the device, where it has a memory of its own."""
        return self.parameters + self.gradients + self.optimizer + self.activations

    @property
    def total(self) -> float:
        """Bytes of this machine's device: without a GPU that is main memory, with the process."""
        return self.on_device + (0 if torch.cuda.is_available() else self.process)


def estimate_memory(shape: ModelShape, settings: Train, dtype: Any) -> MemoryEstimate:
    """What a training with LoRA, QLoRA or all weights takes; rather too much than too little.

    Of weights that are divided, those of one layer, and those outside of the layers, come together
    while they are computed with, and so do their gradients: each once as it is sent, and once more
    where it is used (FSDP2 copies them).
    """
    size = training_dtype(dtype).itemsize
    four_bits = isinstance(settings.method, Qlora)
    packed = shape.linear if four_bits else 0
    weights: float = (shape.frozen - packed + shape.trainable) * size
    if isinstance(settings.method, Qlora):
        weights += packed * _FOUR_BITS[settings.method.double_quant]
    passing: float = shape.trainable * size
    shared, count = _SHARED[settings.parallel], max(settings.devices, 1)
    if "weights" in shared:
        whole = shape.frozen + shape.trainable
        together = 2 * size * (max(whole - shape.linear, 0) + shape.linear / shape.layers)
        weights = weights / count + together
        passing = passing / count + together * shape.trainable / whole
    moments = _ROUNDED_MOMENTS if settings.optimizer == "adamw_8bit" else _MOMENTS
    summed = shape.trainable * _GRADIENT / (count if "gradient" in shared else 1)
    return MemoryEstimate(
        process=_PROCESS + _FOUR_BIT_PROCESS * four_bits,
        parameters=weights,
        gradients=passing + summed,
        optimizer=shape.trainable * (_COPY + moments) / (count if "copy" in shared else 1),
        activations=settings.micro_batch_tokens * _bytes_per_token(shape, settings, size),
    )


def _bytes_per_token(shape: ModelShape, settings: Train, size: int) -> float:
    """Bytes that a token keeps for the way back: a layer, some times what goes in and out of its
    products; with gradient checkpointing what goes into each layer, and a few layers' insides."""
    inside = _KEPT * size * (6 * shape.hidden + 3 * shape.intermediate + 2 * shape.key_value_width)
    if settings.gradient_checkpointing:
        return 2 * size * shape.layers * shape.hidden + 3 * inside
    return shape.layers * inside
