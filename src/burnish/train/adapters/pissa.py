"""PiSSA: adapters initialised with the weights' principal singular vectors (Meng et al. 2024,
arXiv:2404.02948), which learn faster than adapters that begin at zero.

B A is trained, with W - s B0 A0 frozen beside it. The saved adapter is an ordinary LoRA of twice
the rank on the untouched W, as in the paper's appendix: s (B A - B0 A0) = s [B, -B0] [A; A0].
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLayer

from burnish.core.errors import BadRecipe

#: Power iterations of the randomised decomposition (Halko et al. 2011, arXiv:0909.4061); the
#: paper's 16 is as good as the exact one and much faster.
_ITERATIONS = 16


#: Layer name → its initial (A0, B0), which `to_lora` subtracts.
Principal = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


@torch.no_grad()
def init_pissa(adapted: Any) -> Principal:
    """Set each adapter of a new PEFT model to the principal singular vectors of its layer.

    The model computes what its base does, up to rounding. Returns the initial matrices. Raises
    BadRecipe for a rank above a layer's width.
    """
    principal = {}
    for name, layer in _layers(adapted):
        weight, rank = layer.get_base_layer().weight, layer.r["default"]
        if rank > min(weight.shape):
            raise BadRecipe(
                f"{name} is a matrix of {tuple(weight.shape)}; it has fewer than {rank} singular "
                "vectors.",
                f"Set train.method.rank to at most {min(weight.shape)}, or init=zero.",
            )
        left, sizes, right = torch.svd_lowrank(weight.float(), q=rank, niter=_ITERATIONS)
        roots = (sizes / layer.scaling["default"]).sqrt()
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        a.copy_((right * roots).T)
        b.copy_(left * roots)
        principal[name] = (a.clone(), b.clone())
        weight.copy_(weight.float() - _product(layer, a, b))
    return principal


@torch.no_grad()
def to_lora(adapted: Any, principal: Principal) -> None:
    """Turn a trained model of `init_pissa` into an ordinary LoRA of twice the rank."""
    for name, layer in _layers(adapted):
        first_a, first_b = principal[name]
        a, b = layer.lora_A["default"], layer.lora_B["default"]
        weight = layer.get_base_layer().weight
        weight.copy_(weight.float() + _product(layer, first_a, first_b))
        a.weight = torch.nn.Parameter(torch.cat([a.weight, first_a]))
        b.weight = torch.nn.Parameter(torch.cat([b.weight, -first_b], 1))
        layer.r["default"] *= 2
    config = adapted.peft_config["default"]
    config.r *= 2
    config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
    config.lora_alpha *= math.sqrt(2) if config.use_rslora else 2


def _layers(adapted: Any) -> list[tuple[str, Any]]:
    return [(name, part) for name, part in adapted.named_modules() if isinstance(part, LoraLayer)]


def _product(layer: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    update: torch.Tensor = layer.scaling["default"] * (b.float() @ a.float())
    return update
