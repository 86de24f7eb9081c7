"""Inputs of a proof, errors relative to what is expected, and faults of a model's code."""

import torch

from burnish.core.errors import BadRecipe

#: How the code of a model fails on a path that it wasn't written for.
MODEL_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip


class NotCausal(BadRecipe):
    """A model whose predictions depend on later tokens."""

    @classmethod
    def by_name(cls, name: str) -> "NotCausal":
        """Return the error for the model of that name."""
        return cls(
            f"{name} is no causal language model: what it predicts depends on later tokens.",
            "Name a model that generates text from left to right.",
        )


def describe_fault(error: Exception) -> str:
    """Return the kind and the first line of an error. Raises it again if memory ran out."""
    text = str(error).strip()
    if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in text:
        raise error
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__


def random_tokens(vocabulary: int, count: int) -> list[int]:
    """Return token ids, always the same ones."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (count,), generator=draw).tolist()


def relative_error(
    found: torch.Tensor, expected: torch.Tensor, centre: torch.Tensor | float = 0.0
) -> float:
    """Return the distance in lengths of what is expected, counted from `centre`."""
    length = (expected - centre).norm().clamp_min(1e-12)
    return float((found - expected).norm() / length)
