"""Weights sharded over processes: PyTorch's FSDP2 (Zhao et al. 2023, arXiv:2304.11277), stage 3 of
ZeRO.

Each layer's weights are gathered while it computes. The optimizer updates each process's rows of
every weight; checkpoints have whole tensors by name, as those of one process do.
"""

from collections.abc import Mapping
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from burnish.core.recipe.train import Train
from burnish.models.load import default_device
from burnish.train.distributed.process_group import ProcessGroup
from burnish.train.optim.adamw import MasterAdamW
from burnish.train.optim.adamw_8bit import MOMENTS


def shard(language: Any, process_group: ProcessGroup) -> None:
    """Shard a language model: each process keeps its rows of every weight, on its own device."""
    mesh = init_device_mesh(default_device().type, (process_group.size,))
    for layer in language.base_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(language, mesh=mesh)
    # The loss reads the head itself, so FSDP must gather around the pass that computes the states.
    language.body = MethodType(_body, language)
    register_fsdp_forward_method(language, "body")


def _body(self: Any, **inputs: Any) -> Any:
    return self.base_model(**inputs)


class FsdpAdamW(MasterAdamW):
    """`MasterAdamW` on this process's rows of the weights of `shard`."""

    def __init__(
        self,
        weights: Mapping[str, torch.nn.Parameter],
        settings: Train,
        steps: int,
        process_group: ProcessGroup,
    ) -> None:
        self.sharded: dict[str, Any] = dict(weights)
        self.process_group = process_group
        super().__init__(
            {name: _local(weight) for name, weight in weights.items()}, settings, steps
        )

    @property
    def parameter_count(self) -> int:
        """Trainable parameters, in all processes together."""
        return sum(weight.numel() for weight in self.sharded.values())

    def accumulate(self) -> None:
        """Add this process's rows of the gradients, which FSDP has averaged over processes."""
        for name, weight in self.sharded.items():
            if weight.grad is not None:
                grad = self.masters[name].grad
                assert grad is not None
                grad.add_(_local(weight.grad), alpha=self.process_group.size)
                weight.grad = None

    def clip(self) -> float:
        """Clip the norm of the step's gradients over all processes; return what it was."""
        grads = [master.grad for master in self.masters.values() if master.grad is not None]
        square = torch.stack([grad.square().sum() for grad in grads]).sum()
        dist.all_reduce(square)
        norm = square.sqrt()
        for grad in grads:
            grad.mul_((self.settings.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        return float(norm)

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Return all that an update depends on, whole and by name, on the main process; the others
        must call this too, and get nothing."""
        saved = {}
        for key, own in super().state_tensors().items():
            kind, _, name = key.partition(".")
            whole = own if kind == "step" else self._gather_weight(name, own)
            if self.process_group.is_main:
                saved[key] = whole.cpu()
        return saved

    @torch.no_grad()
    def set_weights(self, exact: Mapping[str, torch.Tensor]) -> None:
        """Set the exact weights that the main process passes."""
        super().set_weights(
            {name: self._scatter_weight(name, exact.get(name)) for name in self.sharded}
        )

    @torch.no_grad()
    def restore(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Restore the `state_tensors` that the main process passes, of any number of processes."""
        steps = self.process_group.broadcast(
            {key: saved[key] for key in saved if key.startswith("step.")}
        )
        kinds = ("master", *(MOMENTS if steps else ()))
        own = {
            f"{kind}.{name}": self._scatter_weight(name, saved.get(f"{kind}.{name}"))
            for name in self.sharded
            for kind in kinds
        }
        super().restore({**own, **steps})

    def _gather_weight(self, name: str, own: torch.Tensor) -> torch.Tensor:
        like = self.sharded[name]
        rows = DTensor.from_local(
            own, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
        )
        whole: torch.Tensor = rows.full_tensor()
        return whole

    def _scatter_weight(self, name: str, whole: torch.Tensor | None) -> torch.Tensor:
        """Return this process's rows of the main process's tensor."""
        like = self.sharded[name]
        mesh: DeviceMesh = like.device_mesh
        if whole is None:
            whole = torch.empty(like.shape, dtype=torch.float32)
        own: torch.Tensor = _local(distribute_tensor(whole.to(like.device), mesh, like.placements))
        return own


def _local(rows: Any) -> Any:
    return rows.detach().to_local()
