"""Layers compiled for this machine: what stands between their matrix products takes fewer passes.

Each layer is compiled and not the model, so that all of them share one piece of code, whatever the
length of a batch; attention stays as it is. What is compiled is kept for later runs.
"""

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from burnish.core.progress import say
from burnish.core.settings import cache_compiled_kernels


def compile_layers(model: torch.nn.Module) -> None:
    """Have `torch.compile` make the code of each layer when it first runs; a line says if it can't.

    A layer that can't be compiled, or a machine without a C++ compiler, computes as it did.
    """
    cache_compiled_kernels()
    try:
        torch.compile(torch.nn.functional.silu, dynamic=True)(torch.ones(8))
    except (RuntimeError, OSError) as error:
        why = str(error).strip().splitlines()[0]
        say(f"train.compile: layers can't be compiled here and are computed as they are ({why}).")
        return
    # What another training of this process has compiled counts towards its limit of variants.
    torch._dynamo.reset()
    torch._dynamo.config.suppress_errors = True
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.compile(dynamic=True)


def compile_seconds() -> float:
    """How long this process has compiled so far."""
    return sum(torch._dynamo.utils.compilation_time_metrics.get("_compile.compile_inner", ()))
