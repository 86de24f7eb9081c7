"""`train.method: auto`: the first of a few methods and settings that fits into this machine.

LoRA as the recipe has it; then with fewer rows at a time; then with gradient checkpointing; then on
4-bit weights. Each is slower than the one before and learns the same, except for the last one,
which trains on rounded weights.
"""

import importlib.util
from collections.abc import Iterator

from burnish.core.errors import DoesNotFit
from burnish.core.progress import say
from burnish.core.recipe.methods import AutoMethod, Lora, Qlora
from burnish.core.recipe.recipe import Recipe
from burnish.core.recipe.train import Train
from burnish.models.load import available_memory
from burnish.models.local_models import Resolved
from burnish.train.forecast.estimate import estimate_memory, model_shape

#: The share of the free memory that a candidate may need: the estimate is rough.
_SHARE = 0.85


def resolve_auto_method(resolved: Resolved, begun: Recipe | None = None) -> Recipe:
    """Return the recipe with a method in place of `auto`, and print why. Raises DoesNotFit.

    A run that has begun keeps the method that it began with.
    """
    recipe = resolved.recipe
    auto = recipe.train.method
    if not isinstance(auto, AutoMethod) or recipe.train.is_encoding:
        return recipe
    if begun:
        return recipe.model_copy(update={"train": begun.train})
    free = available_memory()
    shape = model_shape(resolved.base, auto)
    least = float("inf")
    for number, settings in enumerate(_candidates(recipe.train, auto)):
        need = estimate_memory(shape, settings, recipe.model.dtype).total
        if need <= _SHARE * free:
            say(_reason(settings, need, free, usual=number == 0))
            return recipe.model_copy(update={"train": settings})
        least = min(least, need)
    raise DoesNotFit(
        f"{recipe.model.name} needs about {least / 1e9:.1f} GB even on 4-bit weights and "
        f"{free / 1e9:.1f} GB are free.",
        "Take a smaller model, a lower train.max_length, or a machine with more memory.",
    )


def _candidates(train: Train, auto: AutoMethod) -> Iterator[Train]:
    """Yield the settings to try, in order."""
    options = auto.model_dump(exclude={"kind"})
    methods: list[Lora | Qlora] = [Lora(**options)]
    if importlib.util.find_spec("bitsandbytes"):
        methods.append(Qlora(**options))
    for method in methods:
        for checkpointing in (train.gradient_checkpointing, True):
            tokens = train.micro_batch_tokens
            while tokens >= min(train.max_length, train.micro_batch_tokens):
                yield train.model_copy(
                    update={
                        "method": method,
                        "gradient_checkpointing": checkpointing,
                        "micro_batch_tokens": tokens,
                    }
                )
                tokens //= 2


def _reason(settings: Train, need: float, free: float, usual: bool) -> str:
    chosen = [f"train.method={settings.method.kind}"]
    if not usual:
        chosen.append(f"train.micro_batch_tokens={settings.micro_batch_tokens}")
        chosen += ["train.gradient_checkpointing=true"] * settings.gradient_checkpointing
    why = "fits as it is" if usual else "is the fastest way that fits"
    return (
        f"method auto: {' '.join(chosen)} {why}: about {need / 1e9:.1f} GB of the "
        f"{free / 1e9:.1f} GB that are free."
    )
