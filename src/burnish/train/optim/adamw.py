"""AdamW on float32 copies (masters) of the trainable weights.

A bfloat16 weight has 8 bits of mantissa: at a learning rate of 1e-4 most updates would round to
zero. The exact values and the accumulated gradients are here in float32; the model has their
rounded copies.
"""

import math
import re
from collections.abc import Mapping, Sequence

import torch

from burnish.core.recipe.train import Train
from burnish.train.optim.adamw_8bit import MOMENTS, AdamW8bit

#: The optimizer's state of each weight; moments in 8 bits have scales.
_STATE = ("step", *MOMENTS, *(f"{name}_scale" for name in MOMENTS))

#: Norms and biases, by their names in `transformers` (the rule of its Trainer too).
_UNDECAYED = re.compile(
    r"bias|layernorm|rmsnorm|(^|[._])(norm|ln)\w*($|\.)|norm\d*\.weight", re.IGNORECASE
)


def decays(name: str) -> bool:
    """Return True for weights with weight decay: not norms and biases, whose 0 isn't a simpler
    model (as in Loshchilov & Hutter's own code)."""
    return not _UNDECAYED.search(name)


class MasterAdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) with warm-up and decay of the rate."""

    def __init__(
        self, weights: Mapping[str, torch.nn.Parameter], settings: Train, steps: int
    ) -> None:
        self.weights = dict(weights)
        self.masters = {
            name: weight.detach().float().clone() for name, weight in self.weights.items()
        }
        for master in self.masters.values():
            master.grad = torch.zeros_like(master)
        self.settings, self.steps = settings, steps
        self.adamw = make_adamw(list(self.masters.values()), settings)

    @property
    def parameter_count(self) -> int:
        """The number of trainable parameters."""
        return sum(master.numel() for master in self.masters.values())

    def accumulate(self) -> None:
        """Add the gradients of one backward pass to the step's, in float32."""
        for name, weight in self.weights.items():
            if weight.grad is not None:
                grad = self.masters[name].grad
                assert grad is not None
                grad += weight.grad
                weight.grad = None

    def clip(self) -> float:
        """Clip the norm of the step's gradients; return what it was."""
        masters = list(self.masters.values())
        return float(torch.nn.utils.clip_grad_norm_(masters, self.settings.max_grad_norm))

    def step(self, number: int, rate: float | None = None) -> float:
        """Do update `number` (from 0) at the schedule's learning rate or `rate`; return the rate.

        At a rate of 0 the weights don't change by a bit, as the probe needs it.
        """
        rate = self.learning_rate(number) if rate is None else rate
        for group in self.adamw.param_groups:
            group["lr"] = rate
        if self.settings.weight_decay:
            self.decay(1 - rate * self.settings.weight_decay)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=False)
        self.copy_to_model()
        return rate

    @torch.no_grad()
    def decay(self, factor: float) -> None:
        """Multiply the exact values that decay: decoupled weight decay."""
        for name, master in self.masters.items():
            if decays(name):
                master.mul_(factor)

    @property
    def moment_bytes(self) -> int:
        """The bytes of the moments."""
        states = self.adamw.state.values()
        return sum(int(part.nbytes) for state in states for part in state.values())

    def reset(self) -> None:
        """Drop gradients and moments, as before the first step."""
        self.adamw.state.clear()
        self.adamw.zero_grad(set_to_none=False)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Copy the exact values, rounded, to the model."""
        for name, weight in self.weights.items():
            weight.copy_(self.masters[name])

    def learning_rate(self, number: int) -> float:
        """Return the learning rate of step `number` (from 0): linear warm-up, then the schedule."""
        settings = self.settings
        warmup = math.ceil(settings.warmup_ratio * self.steps)
        if number < warmup:
            return settings.learning_rate * (number + 1) / warmup
        done = (number - warmup) / max(self.steps - warmup, 1)
        factor = {
            "constant": 1.0,
            "linear": 1.0 - done,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
        }[settings.schedule]
        return settings.learning_rate * factor

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Return all tensors that an update depends on, for a checkpoint."""
        saved = {f"master.{name}": master for name, master in self.masters.items()}
        for name, master in self.masters.items():
            for key, value in self.adamw.state.get(master, {}).items():
                saved[f"{key}.{name}"] = torch.as_tensor(value)
        return saved

    @torch.no_grad()
    def set_weights(self, exact: Mapping[str, torch.Tensor]) -> None:
        """Set the exact weights."""
        for name, master in self.masters.items():
            master.copy_(exact[name])
        self.copy_to_model()

    @torch.no_grad()
    def restore(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state_tensors` returned."""
        for name, master in self.masters.items():
            master.copy_(saved[f"master.{name}"])
            if f"step.{name}" in saved:
                self.adamw.state[master] = {
                    key: saved[f"{key}.{name}"].to(master.device, copy=True)
                    for key in _STATE
                    if f"{key}.{name}" in saved
                }
            else:
                self.adamw.state.pop(master, None)
        self.adamw.zero_grad(set_to_none=False)
        self.copy_to_model()


def make_adamw(masters: Sequence[torch.Tensor], settings: Train) -> torch.optim.Optimizer:
    """Make the recipe's AdamW: PyTorch's, or the one with 8-bit moments; without weight decay,
    which isn't the same for all weights."""
    if settings.optimizer == "adamw_8bit":
        return AdamW8bit(masters, settings.learning_rate)
    return torch.optim.AdamW(
        list(masters),
        lr=settings.learning_rate,
        weight_decay=0.0,
        # One pass over the memory instead of ten: most of the update in full fine-tuning.
        fused=True,
    )
