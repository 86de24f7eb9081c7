"""Width pruning: measure and keep the most used neurons and attention heads of each layer.

A neuron is one number between the matrices of an MLP; a group is a key-value head with the query
heads that share it. Usage is the mean absolute activation of a neuron, or the mean norm of a
group's head outputs (Muralidharan et al. 2024, arXiv:2407.14679). The hidden width stays, so whole
rows and columns of the same matrices remain.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from burnish.core.errors import BadRecipe
from burnish.core.progress import progress
from burnish.models.pruning.depth import layers_of

#: Names of a layer's matrices into its neurons and out of them.
_MLPS = (
    (("gate_proj", "up_proj"), "down_proj"),
    (("intermediate.dense",), "output.dense"),
)


@dataclass(frozen=True, slots=True)
class PrunableBlock:
    """The MLP or the attention of one layer, as `count` units (neurons or groups).

    `into` has each input matrix with its number of rows per unit; a unit has `columns` columns of
    the output matrix `out`, which belong to heads of `size` (1 for a neuron).
    """

    into: Sequence[tuple[Any, int]]
    out: Any
    columns: int
    size: int
    count: int

    def usage(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the usage of each unit (count,) from the inputs of `out` (..., count * columns):
        the norms of a unit's heads, summed over all tokens."""
        heads = inputs.float().flatten(0, -2).unflatten(-1, (self.count, -1, self.size))
        totals: torch.Tensor = heads.norm(dim=-1).sum((0, 2))
        return totals

    def keep(self, kept: torch.Tensor) -> None:
        """Keep only these units (their numbers, in order), in place."""
        for matrix, each in self.into:
            rows = _unit_indices(kept, each)
            matrix.weight = torch.nn.Parameter(matrix.weight.detach()[rows])
            if matrix.bias is not None:
                matrix.bias = torch.nn.Parameter(matrix.bias.detach()[rows])
            matrix.out_features = len(rows)
        columns = _unit_indices(kept, self.columns)
        self.out.weight = torch.nn.Parameter(self.out.weight.detach()[:, columns])
        self.out.in_features = len(columns)


def mlps_of(model: Any) -> list[PrunableBlock]:
    """Return the MLP of each layer. Raises BadRecipe for an unknown MLP architecture."""
    inner = getattr(model.config.get_text_config(), "intermediate_size", 0)
    return [_mlp(layer, inner, model.config.model_type) for layer in layers_of(model)]


def attentions_of(model: Any) -> list[PrunableBlock]:
    """Return the attention of each layer, in groups. Raises BadRecipe for an unknown architecture,
    or a config that can't express fewer heads."""
    return [_attention(layer, model.config) for layer in layers_of(model)]


@torch.no_grad()
def measure_usage(
    model: Any, texts: Sequence[Sequence[int]], parts: Sequence[PrunableBlock]
) -> list[torch.Tensor]:
    """Return the mean usage per token of each block's units: (count,) each. `texts` are token
    ids."""
    sums = [torch.zeros(part.count, device=part.out.weight.device) for part in parts]
    pairs = zip(parts, sums, strict=True)
    hooks = [part.out.register_forward_pre_hook(_usage_hook(part, total)) for part, total in pairs]
    try:
        with progress("Measuring the width", total=len(texts)) as bar:
            for ids in texts:
                model.base_model(input_ids=torch.tensor([list(ids)], device=model.device))
                bar.advance()
    finally:
        for hook in hooks:
            hook.remove()
    return [total / sum(map(len, texts)) for total in sums]


def keep_neurons(model: Any, count: int, used: Sequence[torch.Tensor]) -> None:
    """Keep the `count` most used neurons of each MLP, in place. `used`: see `measure_usage`."""
    _keep_most_used(mlps_of(model), count, used)
    model.config.get_text_config().intermediate_size = count


def keep_groups(model: Any, count: int, used: Sequence[torch.Tensor]) -> None:
    """Keep the `count` most used groups of each attention, in place. `used`: see `measure_usage`.

    Raises BadRecipe for a number of heads that the model's config can't have.
    """
    config = model.config.get_text_config()
    total = config.num_key_value_heads
    fitting = [number for number in range(1, total + 1) if _supports_groups(config, number)]
    if count not in fitting:
        raise BadRecipe(
            f"This {config.model_type} model has {total} key-value heads; it can't have {count}.",
            f"Set distill.heads to one of {', '.join(map(str, fitting))}.",
        )
    _keep_most_used(attentions_of(model), count, used)
    _set_groups(config, count)


def _keep_most_used(
    parts: Sequence[PrunableBlock], count: int, used: Sequence[torch.Tensor]
) -> None:
    for part, usage in zip(parts, used, strict=True):
        part.keep(usage.topk(count).indices.sort().values)


def _supports_groups(config: Any, count: int) -> bool:
    """Return whether the config may have `count` key-value heads."""
    fewer = deepcopy(config)
    _set_groups(fewer, count)
    try:
        fewer.validate()
    except StrictDataclassError:
        return False
    return True


def _set_groups(config: Any, count: int) -> None:
    config.head_dim = _head_size(config)
    config.num_attention_heads = count * config.num_attention_heads // config.num_key_value_heads
    config.num_key_value_heads = count


def _head_size(config: Any) -> int:
    size = getattr(config, "head_dim", None)
    return int(size or config.hidden_size // config.num_attention_heads)


def _mlp(layer: torch.nn.Module, inner: int, kind: str) -> PrunableBlock:
    for module in layer.modules():
        for names, last in _MLPS:
            matrices = [_linear(module, name) for name in (*names, last)]
            if all(matrices) and matrices[-1].in_features == inner:
                return PrunableBlock(
                    [(matrix, 1) for matrix in matrices[:-1]], matrices[-1], 1, 1, inner
                )
    raise BadRecipe(
        f"The neurons of {kind} models can't be found.",
        "Leave distill.neurons out, or cut layers: distill.layers.",
    )


def _attention(layer: torch.nn.Module, config: Any) -> PrunableBlock:
    text_config = config.get_text_config()
    groups = int(getattr(text_config, "num_key_value_heads", None) or 0)
    for module in layer.modules() if groups else ():
        q, k, v, out = (_linear(module, name) for name in ("q_proj", "k_proj", "v_proj", "o_proj"))
        if not (q and k and v and out):
            continue
        size, heads = _head_size(text_config), text_config.num_attention_heads
        projections = {id(matrix) for matrix in (q, k, v, out)}
        others = [
            submodule
            for submodule in module.modules()
            if id(submodule) not in projections and submodule is not module
        ]
        is_plain = all(
            weight.shape == (size,) for submodule in others for weight in submodule.parameters()
        )
        is_plain = is_plain and not list(module.parameters(recurse=False))
        if is_plain and q.out_features == out.in_features == heads * size:
            columns = heads // groups * size
            return PrunableBlock([(q, columns), (k, size), (v, size)], out, columns, size, groups)
    raise BadRecipe(
        f"{config.model_type} models can't have fewer heads: their config derives the head size "
        "from the hidden width, or their heads can't be found.",
        "Leave distill.heads out; distill.neurons and distill.layers make it smaller too.",
    )


def _linear(module: torch.nn.Module, name: str) -> Any:
    """Return the linear layer of that name below a module, or None."""
    layer: Any = module
    for part in name.split("."):
        layer = getattr(layer, part, None)
    return layer if type(layer) is torch.nn.Linear else None


def _unit_indices(units: torch.Tensor, each: int) -> torch.Tensor:
    """Return the row indices of units of `each` rows: (n,) → (n * each,)."""
    return (units[:, None] * each + torch.arange(each, device=units.device)).flatten()


def _usage_hook(part: PrunableBlock, total: torch.Tensor) -> Callable[[Any, tuple[Any, ...]], None]:
    def add(matrix: Any, inputs: tuple[Any, ...]) -> None:
        total.add_(part.usage(inputs[0].detach()))

    return add
