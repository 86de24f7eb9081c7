"""One of several adapters on the same weights: how it begins, learns beside others, and is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from burnish.core.recipe.methods import Lora
from burnish.train.adapters.registry import lora_config
from burnish.train.batching.examples import Example
from burnish.train.batching.micro_batches import count_all_tokens, micro_batches
from burnish.train.batching.packed import pack
from burnish.train.batching.sampler import count_steps, group_rows
from burnish.train.forward.path import require_packed
from burnish.train.loop.language_model import LanguageModelModule, compute_validation_metrics
from burnish.train.loop.loop import StepResult
from burnish.train.loop.step_metrics import MetricMeans
from burnish.train.loop.trainer import TrainContext
from burnish.train.multi_lora.layers import AdapterSegments, forward_jointly, install_joint_layers
from burnish.train.objectives.registry import OBJECTIVES
from burnish.train.optim.adamw import MasterAdamW
from burnish.train.trainers.causal_lm import build_language_model, seed_everything

#: What PEFT calls the adapter of a model that has one.
_DEFAULT_ADAPTER = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraMember(LanguageModelModule):
    """One of several adapters in training; `name` is PEFT's for it."""

    name: str
    segments: AdapterSegments

    def validation_step(self, rows: Sequence[Example]) -> dict[str, float]:
        """Means over rows from which nothing is learnt, with this adapter alone."""
        self.segments.use_only(self.name)
        return compute_validation_metrics(self, rows)


def build_members(
    read: Sequence[tuple[TrainContext, list[Example], list[Example]]],
) -> list[LoraMember]:
    """One model with all adapters, each as it would have begun alone."""
    given, rows, validation = read[0]
    seed_everything(given.recipe.train.seed)
    fit = build_language_model(given.recipe, given.base, rows, validation)
    require_packed(fit.language, given.base.name, "Training several adapters together")
    names = [_DEFAULT_ADAPTER, *(f"together{number}" for number in range(1, len(read)))]
    for name, (other, _, _) in list(zip(names, read, strict=True))[1:]:
        seed_everything(other.recipe.train.seed)
        assert isinstance(other.recipe.train.method, Lora)
        fit.model.add_adapter(
            name, lora_config(other.recipe.train.method), autocast_adapter_dtype=False
        )
    parts = install_joint_layers(fit.model)
    shared = {one.name: getattr(fit, one.name) for one in fields(fit)}
    found = []
    for name, (own, learns, validates) in zip(names, read, strict=True):
        settings = own.recipe.train
        weights, steps = _adapter_weights(fit.model, name), count_steps(len(learns), settings)
        mine = {
            "rows": learns,
            "units": group_rows(learns, settings),
            "validation": validates,
            "settings": settings,
            "objective": OBJECTIVES[settings.objective.kind](settings.objective),
            "optimizer": MasterAdamW(weights, settings, steps),
        }
        found.append(LoraMember(**shared | mine, name=name, segments=parts))
    return found


def _adapter_weights(model: torch.nn.Module, name: str) -> dict[str, torch.nn.Parameter]:
    """The weights of one adapter, under the names that they would have alone."""
    found = {
        key.replace(f".{name}.", f".{_DEFAULT_ADAPTER}."): weight
        for key, weight in model.named_parameters()
        if f".{name}." in key and "lora_" in key
    }
    for weight in found.values():
        weight.requires_grad_(True)
    return found


def joint_training_step(members: Sequence[tuple[LoraMember, int]]) -> list[StepResult]:
    """Gradients of one step of each member (its plan, and the step from 0): their micro-batches
    side by side, the first of each in one pass, then the second."""
    plans = [plan for plan, _ in members]
    rows = [plan.rows_for_step(step) for plan, step in members]
    first = plans[0]
    first.model.train()
    means, judges, batches = [], [], []
    for plan, own in zip(plans, rows, strict=True):
        most = plan.settings.micro_batch_tokens
        means.append(MetricMeans(plan.objective.weight(own)))
        judges.append(plan.objective.make_loss(plan.language, own, most))
        batches.append(micro_batches(own, most))
    for some in zip_longest(*batches):
        there = [
            (number, pack(part, first.accelerator.device))
            for number, part in enumerate(some)
            if part
        ]
        named = [(plans[number].name, batch) for number, batch in there]
        models = forward_jointly(first.language, first.segments, named)
        losses = []
        for (number, batch), model in zip(there, models, strict=True):
            judgement = judges[number](model, batch)
            means[number].add(judgement)
            losses.append(judgement.loss / means[number].weight)
        first.accelerator.backward(torch.stack(losses).sum())
        for number, _ in there:
            plans[number].optimizer.accumulate()
        # Their graphs would stay beside those of the next micro-batches.
        del losses, judgement, model, models
    return [
        StepResult(mean.as_dict(), count_all_tokens(own))
        for mean, own in zip(means, rows, strict=True)
    ]


class SingleAdapter:
    """One adapter of a model, saved as if it were the only one."""

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name = model, name
        self.peft_config = {name: model.peft_config[name]}

    def save_pretrained(self, folder: Path, **settings: Any) -> None:
        """PEFT puts an adapter that isn't called default into a folder of its name."""
        self.model.save_pretrained(folder, selected_adapters=[self.name], **settings)
        if self.name != _DEFAULT_ADAPTER:
            for file in (folder / self.name).iterdir():
                file.rename(folder / file.name)
            (folder / self.name).rmdir()
