"""A memory estimate from the model's shape, before any weight is loaded.

It is rougher than the forecast, which runs probe steps, and costs nothing: `method: auto` chooses
by it, and the table of larger models consists of it (`forecast.memory_table`).

A trainable number is stored in five ways (ZeRO, Rajbhandari et al. 2020, arXiv:1910.02054, section
3.1; here with a float32 sum of the gradients as well): the weight, the gradient of one pass, that
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

#: Bytes of each process for Python, torch and compiled layers, and for bitsandbytes on top, in main
#: memory; measured on Linux.
_PROCESS, _FOUR_BIT_PROCESS = 670e6, 200e6

#: Bytes of a 4-bit weight with its share of its block's scale, which is quantised or float32.
_FOUR_BITS = {True: 0.516, False: 0.5625}

#: How often a layer keeps the inputs and outputs of its matrix products: 2 times was measured on
#: SmolLM2, whose layers are fused (`kernels.fused_layers`), 3.5 times on Gemma 3, only in part.
_KEPT = 3.5

#: Bytes of a trainable number on top of the weight and the gradient of one pass: float32.
_COPY, _MOMENTS, _GRADIENT = 4, 8, 4
#: Bytes of both moments in 8 bits, with their share of their blocks' scales.
_ROUNDED_MOMENTS = 2.03

#: `train.parallel` → what is sharded over the devices (Rajbhandari et al. 2020, fig. 1).
_SHARDED = {
    "none": (),
    "ddp": (),
    "zero1": ("copy",),
    "zero2": ("copy", "gradient"),
    "zero3": ("copy", "gradient", "weights"),
    "fsdp": ("copy", "gradient", "weights"),
}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes that memory depends on, as counts of numbers; `linear` counts those in the frozen
    layers' matrices, which can be quantized to 4 bits."""

    layers: int
    hidden: int
    intermediate: int
    key_value_width: int
    frozen: int
    linear: int
    trainable: int


def model_shape(base: LocalModel, method: LowRank | Full) -> ModelShape:
    """Return the sizes of a base with a method's trainable weights; no weight is read."""
    config = AutoConfig.from_pretrained(base.path, local_files_only=True)
    return shape_from_config(config, method)


def shape_from_config(config: Any, method: LowRank | Full) -> ModelShape:
    """Return the same for a configuration of `transformers`."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
        if isinstance(method, LowRank):
            # The initialisation of the adapters doesn't change their size.
            plain = Lora(rank=method.rank, targets=method.targets, rank_pattern=method.rank_pattern)
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
    """Bytes at the peak of a training on each of its devices, by use. `process` is the main memory
    of Python and torch."""

    process: float
    parameters: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def on_device(self) -> float:
        """Bytes of a device that has a memory of its own."""
        return self.parameters + self.gradients + self.optimizer + self.activations

    @property
    def total(self) -> float:
        """Bytes of this machine's device: without a GPU main memory, including the process."""
        return self.on_device + (0 if torch.cuda.is_available() else self.process)


def estimate_memory(shape: ModelShape, settings: Train, dtype: Any) -> MemoryEstimate:
    """Estimate the memory of a training with LoRA, QLoRA or all weights, rather too high than too
    low.

    Sharded weights are gathered while they are used, one layer's at a time and those outside the
    layers, and so are their gradients: each once as it is sent, and once more where it is used
    (FSDP2 copies them).
    """
    size = training_dtype(dtype).itemsize
    four_bits = isinstance(settings.method, Qlora)
    packed = shape.linear if four_bits else 0
    weights: float = (shape.frozen - packed + shape.trainable) * size
    if isinstance(settings.method, Qlora):
        weights += packed * _FOUR_BITS[settings.method.double_quant]
    gradients: float = shape.trainable * size
    sharded, count = _SHARDED[settings.parallel], max(settings.devices, 1)
    if "weights" in sharded:
        whole = shape.frozen + shape.trainable
        gathered = 2 * size * (max(whole - shape.linear, 0) + shape.linear / shape.layers)
        weights = weights / count + gathered
        gradients = gradients / count + gathered * shape.trainable / whole
    moments = _ROUNDED_MOMENTS if settings.optimizer == "adamw_8bit" else _MOMENTS
    summed = shape.trainable * _GRADIENT / (count if "gradient" in sharded else 1)
    return MemoryEstimate(
        process=_PROCESS + _FOUR_BIT_PROCESS * four_bits,
        parameters=weights,
        gradients=gradients + summed,
        optimizer=shape.trainable * (_COPY + moments) / (count if "copy" in sharded else 1),
        activations=settings.micro_batch_tokens * _bytes_per_token(shape, settings, size),
    )


def _bytes_per_token(shape: ModelShape, settings: Train, size: int) -> float:
    """Return the bytes of activations that a token keeps for the backward pass: in each layer a
    multiple of the inputs and outputs of its products; with gradient checkpointing the input of
    each layer and the activations of a few."""
    per_layer = (
        _KEPT * size * (6 * shape.hidden + 3 * shape.intermediate + 2 * shape.key_value_width)
    )
    if settings.gradient_checkpointing:
        return 2 * size * shape.layers * shape.hidden + 3 * per_layer
    return shape.layers * per_layer
