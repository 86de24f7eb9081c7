"""A model whose trainable weights are marked by a method of `train.method`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class AdaptedModel:
    """A model with its trainable weights marked; `model` is PEFT's wrapper if there is one.

    `finalizers` turn the trained model, in order, into the form in which it is saved and served.
    """

    model: Any
    finalizers: tuple[Callable[[Any], None], ...] = ()

    def finalize(self) -> None:
        """Bring the trained model into the form in which it is saved and served."""
        for finalizer in self.finalizers:
            finalizer(self.model)
