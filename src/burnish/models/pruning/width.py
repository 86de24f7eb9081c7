"""How wide the layers of a model are inside, and the same model with fewer neurons and heads.

A neuron is one number between the matrices of an MLP; a group is a key-value head with the query
heads that share it. What texts use of them is the mean of a neuron's absolute activation, and of
the lengths of what a group's heads give (Muralidharan et al. 2024, arXiv:2407.14679). The hidden
width stays, so what is left are whole rows and columns of the same matrices.
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

#: What a layer calls the matrices into its neurons and the one out of them.
_MLPS = (
    (("gate_proj", "up_proj"), "down_proj"),
    (("intermediate.dense",), "output.dense"),
)


@dataclass(frozen=True, slots=True)
class PrunableBlock:
    """The MLP or the attention of one layer, as `count` units (neurons or groups).

    Each unit has so many rows of each matrix of `into`, and `columns` of the matrix `out`, which
    belong to heads of `size` (a neuron is one of size 1).
    """

    into: Sequence[tuple[Any, int]]
    out: Any
    columns: int
    size: int
    count: int

    def usage(self, given: torch.Tensor) -> torch.Tensor:
        """(..., count * columns) of what goes into `out` → (count,): the lengths of a unit's heads,
        summed over all tokens."""
        heads = given.float().flatten(0, -2).unflatten(-1, (self.count, -1, self.size))
        found: torch.Tensor = heads.norm(dim=-1).sum((0, 2))
        return found

    def keep(self, kept: torch.Tensor) -> None:
        """Leave these units (their numbers, in order), in place."""
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
    """The MLP of each layer. Raises BadRecipe for a model whose MLPs burnish doesn't know."""
    inner = getattr(model.config.get_text_config(), "intermediate_size", 0)
    return [_mlp(layer, inner, model.config.model_type) for layer in layers_of(model)]


def attentions_of(model: Any) -> list[PrunableBlock]:
    """The attention of each layer, in groups. Raises BadRecipe for a model whose attention burnish
    doesn't know, or whose config can't say fewer heads."""
    return [_attention(layer, model.config) for layer in layers_of(model)]


@torch.no_grad()
def measure_usage(
    model: Any, texts: Sequence[Sequence[int]], parts: Sequence[PrunableBlock]
) -> list[torch.Tensor]:
    """What texts, as tokens, use of each part: (count,) each, the mean over the tokens."""
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
    """Leave each MLP its `count` most used neurons, in place. `used`: see `measured`."""
    _keep_most_used(mlps_of(model), count, used)
    model.config.get_text_config().intermediate_size = count


def keep_groups(model: Any, count: int, used: Sequence[torch.Tensor]) -> None:
    """Leave each attention its `count` most used groups, in place. `used`: see `measured`.

    Raises BadRecipe for a number of heads that the model's config can't have.
    """
    config = model.config.get_text_config()
    total = config.num_key_value_heads
    fitting = [some for some in range(1, total + 1) if _supports_groups(config, some)]
    if count not in fitting:
        raise BadRecipe(
            f"This {config.model_type} model has {total} key-value heads; {count} can't be left.",
            f"Set distill.heads to one of {', '.join(map(str, fitting))}.",
        )
    _keep_most_used(attentions_of(model), count, used)
    _set_groups(config, count)


def _keep_most_used(
    parts: Sequence[PrunableBlock], count: int, used: Sequence[torch.Tensor]
) -> None:
    for part, own in zip(parts, used, strict=True):
        part.keep(own.topk(count).indices.sort().values)


def _supports_groups(config: Any, count: int) -> bool:
    """Whether the config may have so many key-value heads."""
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
    own = getattr(config, "head_dim", None)
    return int(own or config.hidden_size // config.num_attention_heads)


def _mlp(layer: torch.nn.Module, inner: int, kind: str) -> PrunableBlock:
    for module in layer.modules():
        for names, last in _MLPS:
            found = [_linear(module, name) for name in (*names, last)]
            if all(found) and found[-1].in_features == inner:
                return PrunableBlock([(one, 1) for one in found[:-1]], found[-1], 1, 1, inner)
    raise BadRecipe(
        f"burnish doesn't know where models of the kind {kind} have their neurons.",
        "Leave distill.neurons out, or cut layers: distill.layers.",
    )


def _attention(layer: torch.nn.Module, whole: Any) -> PrunableBlock:
    config = whole.get_text_config()
    groups = int(getattr(config, "num_key_value_heads", None) or 0)
    for module in layer.modules() if groups else ():
        q, k, v, out = (_linear(module, name) for name in ("q_proj", "k_proj", "v_proj", "o_proj"))
        if not (q and k and v and out):
            continue
        size, heads = _head_size(config), config.num_attention_heads
        own = {id(matrix) for matrix in (q, k, v, out)}
        others = [one for one in module.modules() if id(one) not in own and one is not module]
        is_plain = all(weight.shape == (size,) for one in others for weight in one.parameters())
        is_plain = is_plain and not list(module.parameters(recurse=False))
        if is_plain and q.out_features == out.in_features == heads * size:
            each = heads // groups * size
            return PrunableBlock([(q, each), (k, size), (v, size)], out, each, size, groups)
    raise BadRecipe(
        f"Models of the kind {whole.model_type} can't be left with fewer heads: their config says "
        "the size of a head by the hidden width, or burnish doesn't know where they have them.",
        "Leave distill.heads out; distill.neurons and distill.layers make it smaller too.",
    )


def _linear(module: torch.nn.Module, name: str) -> Any:
    """The linear layer of that name below a module, or None."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if type(found) is torch.nn.Linear else None


def _unit_indices(units: torch.Tensor, each: int) -> torch.Tensor:
    """The places of units of `each` rows: (n,) → (n * each,)."""
    return (units[:, None] * each + torch.arange(each, device=units.device)).flatten()


def _usage_hook(part: PrunableBlock, total: torch.Tensor) -> Callable[[Any, tuple[Any, ...]], None]:
    def add(matrix: Any, given: tuple[Any, ...]) -> None:
        total.add_(part.usage(given[0].detach()))

    return add
