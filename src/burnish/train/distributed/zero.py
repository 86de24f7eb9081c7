"""AdamW whose float32 copies, moments and gradients are sharded over processes.

All trainable weights are one long vector. With `ddp` each process holds all of it; with `zero1` its
shard of the exact weights and moments, with `zero2` of the gradients too (ZeRO, Rajbhandari et al.
2020, arXiv:1910.02054). AdamW treats every number by itself, so a shard may end inside a matrix.
Checkpoints have whole tensors by name, as those of one process do: any number of processes can read
them.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist

from burnish.core.recipe.train import Train
from burnish.train.distributed.process_group import ProcessGroup
from burnish.train.optim.adamw import MasterAdamW, decays, make_adamw
from burnish.train.optim.adamw_8bit import MOMENTS

#: Gradients that are reduced at once: 16 MB.
_CHUNK = 1 << 22


class WeightSlice(NamedTuple):
    """A part of one weight, flat, and its position in a shard of the long vector."""

    name: str
    in_weight: slice
    in_vector: slice


class ZeroAdamW(MasterAdamW):
    """Makes the updates of `MasterAdamW` on the sum of all processes' gradients."""

    def __init__(
        self,
        weights: Mapping[str, torch.nn.Parameter],
        settings: Train,
        steps: int,
        process_group: ProcessGroup,
    ) -> None:
        self.weights, self.settings, self.steps, self.process_group = (
            dict(weights),
            settings,
            steps,
            process_group,
        )
        first = next(iter(self.weights.values()))
        self.device, self.total = first.device, sum(w.numel() for w in self.weights.values())
        self.is_sharded = process_group.mode != "ddp"
        # All shards are equally long; the last one may reach beyond the end.
        self.length = -(-self.total // process_group.size) if self.is_sharded else self.total
        self.master = torch.zeros(self.length, device=self.device)
        for name, in_weight, in_vector in self._shard_slices(self._own_shard):
            self.master[in_vector] = self.weights[name].detach().view(-1)[in_weight]
        is_whole = process_group.mode == "zero1"
        gradient_length = self.length * process_group.size if is_whole else self.length
        self.gradient = torch.zeros(gradient_length, device=self.device)
        own_shard = (
            slice(process_group.rank * self.length, (process_group.rank + 1) * self.length)
            if is_whole
            else slice(None)
        )
        self.master.grad = self.gradient[own_shard]
        self.adamw = make_adamw([self.master], settings)

    @property
    def _own_shard(self) -> int:
        return self.process_group.rank if self.is_sharded else 0

    @property
    def parameter_count(self) -> int:
        """Trainable parameters, in all processes together."""
        return self.total

    def accumulate(self) -> None:
        """Add the gradients of one backward pass; with `zero2` all processes reduce them together,
        those without a pass too, and each keeps its shard of the sum."""
        if self.process_group.mode == "zero2":
            for owner in range(self.process_group.size):
                for begin in range(0, self.length, _CHUNK):
                    end = min(begin + _CHUNK, self.length)
                    part = self._read_gradients(
                        owner * self.length + begin, owner * self.length + end
                    )
                    dist.reduce(part, dst=owner)
                    if owner == self.process_group.rank:
                        self.gradient[begin:end] += part
        else:
            at = 0
            for weight in self.weights.values():
                if weight.grad is not None:
                    self.gradient[at : at + weight.numel()] += weight.grad.view(-1)
                at += weight.numel()
        for weight in self.weights.values():
            weight.grad = None

    def clip(self) -> float:
        """Reduce the gradients and clip their norm; return what it was."""
        if self.process_group.mode == "ddp":
            dist.all_reduce(self.gradient)
        elif self.process_group.mode == "zero1":
            for owner in range(self.process_group.size):
                part = self.gradient[owner * self.length : (owner + 1) * self.length]
                dist.reduce(part, dst=owner)
        gradient = self.master.grad
        assert gradient is not None
        square = torch.linalg.vecdot(gradient, gradient)
        if self.is_sharded:
            dist.all_reduce(square)
        norm = square.sqrt()
        gradient.mul_((self.settings.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        return float(norm)

    def step(self, number: int, rate: float | None = None) -> float:
        """See `MasterAdamW.step`; the gradients of other shards are zeroed too."""
        rate = super().step(number, rate)
        self.gradient.zero_()
        return rate

    @torch.no_grad()
    def decay(self, factor: float) -> None:
        """See `MasterAdamW.decay`; each process multiplies its own shard."""
        for name, _, in_vector in self._shard_slices(self._own_shard):
            if decays(name):
                self.master[in_vector].mul_(factor)

    def reset(self) -> None:
        """See `MasterAdamW.reset`; the gradients of other shards are zeroed too."""
        super().reset()
        self.gradient.zero_()

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Copy all exact values, rounded, to the model of every process."""
        dtypes = {weight.dtype for weight in self.weights.values()}
        dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
        for owner in range(self.process_group.size if self.is_sharded else 1):
            is_own = owner == self._own_shard
            values = self.master.to(dtype) if is_own else self.master.new_empty(0, dtype=dtype)
            if self.is_sharded:
                values = values if is_own else values.new_empty(self.length)
                dist.broadcast(values, src=owner)
            for name, in_weight, in_vector in self._shard_slices(owner):
                self.weights[name].view(-1)[in_weight] = values[in_vector].to(
                    self.weights[name].dtype
                )

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Return all that an update depends on, whole and by name, on the main process; the others
        must call this too, and get nothing."""
        state = self.adamw.state.get(self.master, {})
        saved = self._split_by_name("master", self._gather_vector(self.master.detach()))
        for key in MOMENTS if state else ():
            saved |= self._split_by_name(key, self._gather_vector(state[key]))
        if state and self.process_group.is_main:
            saved |= {f"step.{name}": state["step"].clone() for name in self.weights}
        return saved

    @torch.no_grad()
    def set_weights(self, exact: Mapping[str, torch.Tensor]) -> None:
        """Set the exact weights that the main process passes."""
        self.master.copy_(self._scatter("", exact))
        self.copy_to_model()

    @torch.no_grad()
    def restore(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Restore the `state_tensors` that the main process passes, of any number of processes."""
        self.master.copy_(self._scatter("master.", saved))
        self.adamw.state.clear()
        first = next(iter(self.weights))
        step = self.process_group.broadcast(saved.get(f"step.{first}"))
        if step is not None:
            moments = {key: self._scatter(f"{key}.", saved) for key in MOMENTS}
            self.adamw.state[self.master] = {"step": step.to(self.device), **moments}
        self.gradient.zero_()
        self.copy_to_model()

    def _shard_slices(self, owner: int) -> Iterator[WeightSlice]:
        """Yield the parts of the weights in the shard of process `owner`."""
        return self._slices_between(owner * self.length, (owner + 1) * self.length)

    def _slices_between(self, begin: int, end: int) -> Iterator[WeightSlice]:
        """Yield the parts of the weights between two positions of the long vector."""
        at = 0
        for name, weight in self.weights.items():
            low, high = max(begin, at), min(end, at + weight.numel())
            if low < high:
                yield WeightSlice(
                    name, slice(low - at, high - at), slice(low - begin, high - begin)
                )
            at += weight.numel()

    def _read_gradients(self, begin: int, end: int) -> torch.Tensor:
        """Return the latest gradients between two positions of the long vector, or zeros."""
        part = torch.zeros(end - begin, device=self.device)
        for name, in_weight, in_vector in self._slices_between(begin, end):
            grad = self.weights[name].grad
            if grad is not None:
                part[in_vector] = grad.view(-1)[in_weight]
        return part

    def _gather_vector(self, own: torch.Tensor) -> torch.Tensor | None:
        """Return all shards in order on the main process, in main memory; None elsewhere."""
        if not self.is_sharded:
            return own if self.process_group.is_main else None
        if not self.process_group.is_main:
            dist.send(own, dst=0)
            return None
        gathered = torch.empty(self.process_group.size, self.length)
        for owner, shard in enumerate(gathered):
            other = own if owner == 0 else torch.empty_like(own)
            if owner:
                dist.recv(other, src=owner)
            shard.copy_(other)
        return gathered.view(-1)

    def _split_by_name(self, kind: str, whole: torch.Tensor | None) -> dict[str, torch.Tensor]:
        if whole is None:
            return {}
        sizes = [weight.numel() for weight in self.weights.values()]
        parts = whole[: self.total].split(sizes)
        return {
            f"{kind}.{name}": part.view(weight.shape)
            for (name, weight), part in zip(self.weights.items(), parts, strict=True)
        }

    def _scatter(self, prefix: str, saved: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return this process's shard of the main process's tensors."""
        own = torch.zeros(self.length, device=self.device)
        for owner in range(
            self.process_group.size if self.is_sharded and self.process_group.is_main else 1
        ):
            part = own if owner == 0 else torch.zeros_like(own)
            if self.process_group.is_main:
                for name, in_weight, in_vector in self._shard_slices(owner):
                    part[in_vector] = saved[f"{prefix}{name}"].view(-1)[in_weight].to(self.device)
            if owner:
                dist.send(part, dst=owner)
        if not self.is_sharded:
            dist.broadcast(own, src=0)
        elif not self.process_group.is_main:
            dist.recv(own, src=0)
        return own
