"""AdamW whose moments are kept in 8 bits (Dettmers et al. 2022, arXiv:2110.02861).

A block of 256 numbers has one scale, its largest; the 256 code values are closer together near zero
(dynamic quantization). An update dequantizes the moments, a chunk at a time, computes in float32
and quantizes them again with `bitsandbytes`. The weights stay exact; only the moments are rounded.
"""

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch

from burnish.models.quantization.nf4 import import_bitsandbytes

#: Numbers that share a scale, as in the paper.
_BLOCK = 256
#: Smaller tensors keep their moments in float32, as in the paper.
_MIN_SIZE = 4096
#: Numbers whose moments are dequantized at once: 16 MB each, whole blocks.
_CHUNK = 1 << 22
_BETAS, _EPSILON = (0.9, 0.999), 1e-8
MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamW8bit(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with 8-bit moments.

    The state of a tensor is `step`, and for each moment its bytes and `<moment>_scale`, one a
    block; or the moment itself where the tensor is small. Raises Unavailable without bitsandbytes.
    """

    def __init__(self, masters: Sequence[torch.Tensor], rate: float) -> None:
        super().__init__(list(masters), {"lr": rate})
        functional = import_bitsandbytes("Moments of 8 bits need").functional
        self.functional = functional
        self.codes = {
            name: functional.create_dynamic_map(signed=name == "exp_avg") for name in MOMENTS
        }

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all tensors by their gradients."""
        for group in self.param_groups:
            for master in group["params"]:
                self._update(master, group["lr"])
        return closure() if closure else None

    def _update(self, master: torch.Tensor, rate: float) -> None:
        state, grad = self.state[master], master.grad
        assert grad is not None
        if not state:
            self._init_state(master, state)
        state["step"] += 1
        number = int(state["step"])
        flat, gradient = master.view(-1), grad.view(-1)
        for begin in range(0, len(flat), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            first, second = (self._dequantize(state, name, part) for name in MOMENTS)
            chunk = gradient[part]
            first.lerp_(chunk, 1 - _BETAS[0])
            second.mul_(_BETAS[1]).addcmul_(chunk, chunk, value=1 - _BETAS[1])
            root = (second / (1 - _BETAS[1] ** number)).sqrt_().add_(_EPSILON)
            flat[part].addcdiv_(first, root, value=-rate / (1 - _BETAS[0] ** number))
            for name, moment in zip(MOMENTS, (first, second), strict=True):
                self._quantize(state, name, part, moment)

    def _init_state(self, master: torch.Tensor, state: dict[str, Any]) -> None:
        state["step"] = torch.zeros(())
        numbers, device = master.numel(), master.device
        for name in MOMENTS:
            if numbers < _MIN_SIZE:
                state[name] = torch.zeros(numbers, device=device)
                continue
            zero = int(self.codes[name].abs().argmin())
            state[name] = torch.full((numbers,), zero, dtype=torch.uint8, device=device)
            state[f"{name}_scale"] = torch.zeros(-(-numbers // _BLOCK), device=device)

    def _dequantize(self, state: dict[str, Any], name: str, part: slice) -> torch.Tensor:
        """Return a chunk of a moment, float32; a copy where it is kept in bytes."""
        stored: torch.Tensor = state[name][part]
        if stored.dtype != torch.uint8:
            return stored
        moment: torch.Tensor = self.functional.dequantize_blockwise(
            stored, absmax=state[f"{name}_scale"][_blocks(part)],
            code=self._code_values(name, stored), blocksize=_BLOCK,
        )  # fmt: skip
        return moment

    def _quantize(
        self, state: dict[str, Any], name: str, part: slice, moment: torch.Tensor
    ) -> None:
        if state[name].dtype != torch.uint8:
            return  # it was updated in place
        quantized, state_of_blocks = self.functional.quantize_blockwise(
            moment, code=self._code_values(name, moment), blocksize=_BLOCK
        )
        state[name][part] = quantized
        state[f"{name}_scale"][_blocks(part)] = state_of_blocks.absmax

    def _code_values(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return the 256 code values of a moment, on the device of `tensor`."""
        code: torch.Tensor = self.codes[name].to(tensor.device)
        self.codes[name] = code
        return code


def _blocks(part: slice) -> slice:
    return slice(part.start // _BLOCK, -(-part.stop // _BLOCK))
