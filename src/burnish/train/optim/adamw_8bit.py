"""AdamW whose moments are kept in 8 bits (Dettmers et al. 2022, arXiv:2110.02861).

A block of 256 numbers has one scale, its largest; the 256 values below are closer together near
zero (dynamic quantisation). An update makes the moments plain, a stretch at a time, computes in
float32 and rounds them again; `bitsandbytes` rounds. Weights stay exact: only the moments lose.
"""

from collections.abc import Callable, Sequence
from typing import Any, overload

import torch

from burnish.models.quantization.nf4 import import_bitsandbytes

#: Numbers that share a scale, as the paper has it.
_BLOCK = 256
#: Smaller tensors keep their moments in float32, as the paper's do.
_LEAST = 4096
#: Numbers whose moments are plain at once: 16 MB each, whole blocks.
_AT_ONCE = 1 << 22
_BETAS, _EPSILON = (0.9, 0.999), 1e-8
MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamW8bit(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with moments of about one byte a number.

    The state of a tensor is `step`, and of each moment its bytes and `<moment>_scale`, one a block;
    or the moment itself where the tensor is small. Raises Unavailable without bitsandbytes.
    """

    def __init__(self, masters: Sequence[torch.Tensor], rate: float) -> None:
        super().__init__(list(masters), {"lr": rate})
        functional = import_bitsandbytes("Moments of 8 bits need").functional
        self.rounding = functional
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
        for begin in range(0, len(flat), _AT_ONCE):
            part = slice(begin, begin + _AT_ONCE)
            first, second = (self._dequantize(state, name, part) for name in MOMENTS)
            own = gradient[part]
            first.lerp_(own, 1 - _BETAS[0])
            second.mul_(_BETAS[1]).addcmul_(own, own, value=1 - _BETAS[1])
            size = (second / (1 - _BETAS[1] ** number)).sqrt_().add_(_EPSILON)
            flat[part].addcdiv_(first, size, value=-rate / (1 - _BETAS[0] ** number))
            for name, moment in zip(MOMENTS, (first, second), strict=True):
                self._quantize(state, name, part, moment)

    def _init_state(self, master: torch.Tensor, state: dict[str, Any]) -> None:
        state["step"] = torch.zeros(())
        numbers, place = master.numel(), master.device
        for name in MOMENTS:
            if numbers < _LEAST:
                state[name] = torch.zeros(numbers, device=place)
                continue
            zero = int(self.codes[name].abs().argmin())
            state[name] = torch.full((numbers,), zero, dtype=torch.uint8, device=place)
            state[f"{name}_scale"] = torch.zeros(-(-numbers // _BLOCK), device=place)

    def _dequantize(self, state: dict[str, Any], name: str, part: slice) -> torch.Tensor:
        """A stretch of a moment, float32, a copy where it is kept in bytes."""
        kept: torch.Tensor = state[name][part]
        if kept.dtype != torch.uint8:
            return kept
        found: torch.Tensor = self.rounding.dequantize_blockwise(
            kept, absmax=state[f"{name}_scale"][_blocks(part)], code=self._code_values(name, kept),
            blocksize=_BLOCK,
        )  # fmt: skip
        return found

    def _quantize(
        self, state: dict[str, Any], name: str, part: slice, moment: torch.Tensor
    ) -> None:
        if state[name].dtype != torch.uint8:
            return  # it was changed where it is
        rounded, how = self.rounding.quantize_blockwise(
            moment, code=self._code_values(name, moment), blocksize=_BLOCK
        )
        state[name][part] = rounded
        state[f"{name}_scale"][_blocks(part)] = how.absmax

    def _code_values(self, name: str, beside: torch.Tensor) -> torch.Tensor:
        """The 256 values of a moment, on the device of the tensor that they are for."""
        code: torch.Tensor = self.codes[name].to(beside.device)
        self.codes[name] = code
        return code


def _blocks(part: slice) -> slice:
    return slice(part.start // _BLOCK, -(-part.stop // _BLOCK))
