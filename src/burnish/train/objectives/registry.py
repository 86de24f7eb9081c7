"""The table of objectives of language models.

A new objective is a file of this folder, a line here, and a section of `core.recipe.objectives`.
"""

from collections.abc import Callable
from typing import Any

from burnish.train.loop.language_model import Objective
from burnish.train.objectives.custom_loss import custom
from burnish.train.objectives.distillation import distillation
from burnish.train.objectives.grpo import grpo
from burnish.train.objectives.preference import dpo, kto, orpo, simpo
from burnish.train.objectives.sft import sft

#: `train.objective.kind` → the objective with its settings.
OBJECTIVES: dict[str, Callable[[Any], Objective]] = {
    "sft": sft,
    "dpo": dpo,
    "orpo": orpo,
    "simpo": simpo,
    "kto": kto,
    "distill": distillation,
    "grpo": grpo,
    "custom": custom,
}
