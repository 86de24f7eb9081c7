"""AdamW on float32 copies of the weights that move.

A bfloat16 weight has 8 bits of mantissa: at a learning rate of 1e-4 most updates would round to
nothing. The exact values and the accumulated gradients live here in float32; the model holds their
rounded copies.
"""

import math
import re
from collections.abc import Mapping, Sequence

import torch

from burnish.core.recipe.train import Train
from burnish.train.optim.adamw_8bit import MOMENTS, AdamW8bit

#: What an update leaves for the next one, of each weight; scales where moments are rounded.
_STATE = ("step", *MOMENTS, *(f"{name}_scale" for name in MOMENTS))


#: Norms and biases, by the names that `transformers` has for them (its Trainer's rule too).
_UNDECAYED = re.compile(
    r"bias|layernorm|rmsnorm|(^|[._])(norm|ln)\w*($|\.)|norm\d*\.weight", re.IGNORECASE
)


def decays(name: str) -> bool:
    """Whether weight decay pulls a weight towards 0: not norms and biases, whose 0 is no simpler
    model (Loshchilov & Hutter's own code, and every Trainer since)."""
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
        """Numbers that move."""
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
        """Bound the norm of the step's gradients; returns what it was."""
        masters = list(self.masters.values())
        return float(torch.nn.utils.clip_grad_norm_(masters, self.settings.max_grad_norm))

    def step(self, number: int, rate: float | None = None) -> float:
        """Update number `number` (from 0), at the schedule's rate or at `rate`. Returns the rate.

        At a rate of 0 the weights stay what they are, to the last bit: such a step is a rehearsal.
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
        """Decoupled weight decay: multiply the exact values that decay."""
        for name, master in self.masters.items():
            if decays(name):
                master.mul_(factor)

    @property
    def moment_bytes(self) -> int:
        """Bytes of the moments that the updates so far have left."""
        states = self.adamw.state.values()
        return sum(int(part.nbytes) for state in states for part in state.values())

    def reset(self) -> None:
        """Drop gradients and moments, as if no step had been made."""
        self.adamw.state.clear()
        self.adamw.zero_grad(set_to_none=False)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Give the model the rounded copies of the exact values."""
        for name, weight in self.weights.items():
            weight.copy_(self.masters[name])

    def learning_rate(self, number: int) -> float:
        """The learning rate of step `number` (from 0): linear warm-up, then the schedule."""
        settings = self.settings
        warm = math.ceil(settings.warmup_ratio * self.steps)
        if number < warm:
            return settings.learning_rate * (number + 1) / warm
        done = (number - warm) / max(self.steps - warm, 1)
        left = {
            "constant": 1.0,
            "linear": 1.0 - done,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
        }[settings.schedule]
        return settings.learning_rate * left

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Everything that an update depends on, for a checkpoint."""
        saved = {f"master.{name}": master for name, master in self.masters.items()}
        for name, master in self.masters.items():
            for key, value in self.adamw.state.get(master, {}).items():
                saved[f"{key}.{name}"] = torch.as_tensor(value)
        return saved

    @torch.no_grad()
    def set_weights(self, exact: Mapping[str, torch.Tensor]) -> None:
        """Go to these exact weights."""
        for name, master in self.masters.items():
            master.copy_(exact[name])
        self.copy_to_model()

    @torch.no_grad()
    def restore(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Go back to what `tensors` gave."""
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
    """AdamW as the recipe has it: PyTorch's, or with moments of 8 bits; without the decay, which
    isn't the same for all weights."""
    if settings.optimizer == "adamw_8bit":
        return AdamW8bit(masters, settings.learning_rate)
    return torch.optim.AdamW(
        list(masters),
        lr=settings.learning_rate,
        weight_decay=0.0,
        # One pass over the memory instead of ten: where all weights move, most of the update.
        fused=True,
    )
