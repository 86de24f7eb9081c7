"""One of several adapters on the same weights: how it begins, its joint step, how it is saved."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from burnish.core.recipe.methods import Lora
from burnish.train.adapters.registry import lora_config
from burnish.train.batching.examples import Example
from burnish.train.batching.micro_batches import count_all_tokens, micro_batches
from burnish.train.batching.packed import pack
from burnish.train.batching.sampler import count_steps, group_rows
from burnish.train.forward.path import require_packed
from burnish.train.loop.context import TrainContext
from burnish.train.loop.language_model import LanguageModelModule, compute_validation_metrics
from burnish.train.loop.loop import StepResult
from burnish.train.loop.step_metrics import MetricMeans
from burnish.train.multi_lora.layers import AdapterSegments, forward_jointly, install_joint_layers
from burnish.train.optim.adamw import MasterAdamW
from burnish.train.trainers.causal_lm import build_language_model, objective_of

#: PEFT's name of the only adapter of a model.
_DEFAULT_ADAPTER = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraMember(LanguageModelModule):
    """One of several adapters in training; `name` is PEFT's for it."""

    name: str
    segments: AdapterSegments

    def validation_step(self, rows: Sequence[Example]) -> dict[str, float]:
        """Return the validation metrics of `rows` with this adapter alone."""
        self.segments.use_only(self.name)
        return compute_validation_metrics(self, rows)


def build_members(
    inputs: Sequence[tuple[TrainContext, list[Example], list[Example]]],
) -> list[LoraMember]:
    """Build one model with all adapters, each as it would have begun alone.

    `inputs` has the context, the training and the validation rows of each.
    """
    context, train_rows, validation_rows = inputs[0]
    set_seed(context.recipe.train.seed)
    module = build_language_model(context.recipe, context.base, train_rows, validation_rows)
    require_packed(module.language, context.base.name, "Training several adapters together")
    names = [_DEFAULT_ADAPTER, *(f"together{number}" for number in range(1, len(inputs)))]
    for name, (context, _, _) in list(zip(names, inputs, strict=True))[1:]:
        set_seed(context.recipe.train.seed)
        assert isinstance(context.recipe.train.method, Lora)
        config = lora_config(context.recipe.train.method)
        module.model.add_adapter(name, config, autocast_adapter_dtype=False)
    segments = install_joint_layers(module.model)
    shared = {field.name: getattr(module, field.name) for field in fields(module)}
    members = []
    for name, (context, train_rows, validation_rows) in zip(names, inputs, strict=True):
        settings = context.recipe.train
        weights = _adapter_weights(module.model, name)
        own = {
            "rows": train_rows,
            "row_groups": group_rows(train_rows, settings),
            "validation": validation_rows,
            "settings": settings,
            "objective": objective_of(context.recipe),
            "optimizer": MasterAdamW(weights, settings, count_steps(len(train_rows), settings)),
        }
        members.append(LoraMember(**shared | own, name=name, segments=segments))
    return members


def _adapter_weights(model: torch.nn.Module, name: str) -> dict[str, torch.nn.Parameter]:
    """Return the weights of one adapter, under the names that they would have alone."""
    weights = {
        key.replace(f".{name}.", f".{_DEFAULT_ADAPTER}."): weight
        for key, weight in model.named_parameters()
        if f".{name}." in key and "lora_" in key
    }
    for weight in weights.values():
        weight.requires_grad_(True)
    return weights


def joint_training_step(members: Sequence[tuple[LoraMember, int]]) -> list[StepResult]:
    """Compute the gradients of one step (from 0) of each member: their micro-batches side by side,
    the first of each in one pass, then the second."""
    modules = [module for module, _ in members]
    rows = [module.rows_for_step(step) for module, step in members]
    first = modules[0]
    first.model.train()
    means, loss_fns, batches = [], [], []
    for module, own_rows in zip(modules, rows, strict=True):
        max_tokens = module.settings.micro_batch_tokens
        means.append(MetricMeans(module.objective.weight(own_rows)))
        loss_fns.append(module.objective.make_loss(module.language, own_rows, max_tokens))
        batches.append(micro_batches(own_rows, max_tokens))
    for side_by_side in zip_longest(*batches):
        packed = [
            (number, pack(examples, first.accelerator.device))
            for number, examples in enumerate(side_by_side)
            if examples
        ]
        named = [(modules[number].name, batch) for number, batch in packed]
        models = forward_jointly(first.language, first.segments, named)
        losses = []
        for (number, batch), model in zip(packed, models, strict=True):
            batch_loss = loss_fns[number](model, batch)
            means[number].add(batch_loss)
            losses.append(batch_loss.loss / means[number].weight)
        first.accelerator.backward(torch.stack(losses).sum())
        for number, _ in packed:
            modules[number].optimizer.accumulate()
        # Their graphs would stay beside those of the next micro-batches.
        del losses, batch_loss, model, models
    return [
        StepResult(mean.as_dict(), count_all_tokens(own_rows))
        for mean, own_rows in zip(means, rows, strict=True)
    ]


class SingleAdapter:
    """One adapter of a model, saved as if it were the only one."""

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name = model, name
        self.peft_config = {name: model.peft_config[name]}

    def save_pretrained(self, folder: Path, **settings: Any) -> None:
        """Save the adapter into `folder` itself: PEFT gives one of another name a folder."""
        self.model.save_pretrained(folder, selected_adapters=[self.name], **settings)
        if self.name != _DEFAULT_ADAPTER:
            for file in (folder / self.name).iterdir():
                file.rename(folder / file.name)
            (folder / self.name).rmdir()
