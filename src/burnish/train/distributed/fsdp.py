"""The weights of a model divided over processes too: PyTorch's FSDP2 (Zhao et al. 2023,
arXiv:2304.11277), which is stage 3 of ZeRO.

Each layer's weights are brought together while it computes. The optimizer moves each process's own
rows of every weight; checkpoints hold whole tensors by name, as those of one process do.
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


def shard(language: Any, team: ProcessGroup) -> None:
    """Leave each process its rows of every weight of a language model, on its own device."""
    mesh = init_device_mesh(default_device().type, (team.size,))
    for layer in language.base_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(language, mesh=mesh)
    # The loss reads the head itself; what computes the states must count as the forward pass.
    language.body = MethodType(_body, language)
    register_fsdp_forward_method(language, "body")


def _body(self: Any, **inputs: Any) -> Any:
    return self.base_model(**inputs)


class FsdpAdamW(MasterAdamW):
    """`MasterAdamW` on this process's rows of weights that `divide` has divided."""

    def __init__(
        self,
        weights: Mapping[str, torch.nn.Parameter],
        settings: Train,
        steps: int,
        team: ProcessGroup,
    ) -> None:
        self.sharded: dict[str, Any] = dict(weights)
        self.team = team
        super().__init__(
            {name: _local(weight) for name, weight in weights.items()}, settings, steps
        )

    @property
    def parameter_count(self) -> int:
        """Numbers that move, in all processes together."""
        return sum(weight.numel() for weight in self.sharded.values())

    def accumulate(self) -> None:
        """Add this process's rows of the gradients, which FSDP has averaged over processes."""
        for name, weight in self.sharded.items():
            if weight.grad is not None:
                grad = self.masters[name].grad
                assert grad is not None
                grad.add_(_local(weight.grad), alpha=self.team.size)
                weight.grad = None

    def clip(self) -> float:
        """Bound the norm of the step's gradients over all processes; returns what it was."""
        grads = [master.grad for master in self.masters.values() if master.grad is not None]
        square = torch.stack([grad.square().sum() for grad in grads]).sum()
        dist.all_reduce(square)
        norm = square.sqrt()
        for grad in grads:
            grad.mul_((self.settings.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        return float(norm)

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Everything that an update depends on, by name and whole, at the leader; the others, who
        must call this too, get nothing."""
        saved = {}
        for key, own in super().state_tensors().items():
            kind, _, name = key.partition(".")
            whole = own if kind == "step" else self._gather_weight(name, own)
            if self.team.is_main:
                saved[key] = whole.cpu()
        return saved

    @torch.no_grad()
    def set_weights(self, exact: Mapping[str, torch.Tensor]) -> None:
        """Go to the exact weights that the leader has."""
        super().set_weights(
            {name: self._scatter_weight(name, exact.get(name)) for name in self.sharded}
        )

    @torch.no_grad()
    def restore(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Go back to what the leader's `tensors` gave, to however many processes."""
        steps = self.team.broadcast({key: saved[key] for key in saved if key.startswith("step.")})
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
        """This process's rows of what the leader has."""
        like = self.sharded[name]
        mesh: DeviceMesh = like.device_mesh
        if whole is None:
            whole = torch.empty(like.shape, dtype=torch.float32)
        own: torch.Tensor = _local(distribute_tensor(whole.to(like.device), mesh, like.placements))
        return own


def _local(rows: Any) -> Any:
    return rows.detach().to_local()
