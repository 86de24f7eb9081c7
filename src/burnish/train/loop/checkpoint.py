"""Checkpoints: a run that resumes from one ends in the same weights, bit for bit.

    checkpoints/step-000050/tensors.safetensors   exact weights, optimizer moments, random states
    checkpoints/step-000050/checkpoint.json       step, best so far, and the hash of the tensors

The order of rows is a function of the step, so the step is the whole state of the sampler.
"""

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from burnish.core.atomic import atomic_folder, hash_file, write_json
from burnish.core.progress import say

#: Checkpoints at multiples of `train.keep_every` that stay.
LANDMARKS = 3


@dataclass(slots=True)
class TrainState:
    """The state of a run. `step` counts finished optimizer steps, which took `seconds`;
    validations and checkpoints took `other_seconds`. `waited` counts the validations since the
    best one, for early stopping; `stopped` says why the run has ended."""

    step: int = 0
    best_step: int = 0
    best_loss: float = float("inf")
    waited: int = 0
    seconds: float = 0.0
    other_seconds: float = 0.0
    tokens: int = 0
    stopped: str = ""


def save_checkpoint(folder: Path, state: TrainState, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write `folder/step-N`, whole or not at all. Raises OSError when the disk is full."""
    path = folder / f"step-{state.step:06}"
    with atomic_folder(path, replace=True) as draft:
        everything = {**tensors, **_random_states()}
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in everything.items()},
            draft / "tensors.safetensors",
        )
        facts = {**asdict(state), "python_random": _python_random()}
        facts["sha256"] = hash_file(draft / "tensors.safetensors")
        write_json(draft / "checkpoint.json", facts)
    return path


def last_checkpoint(folder: Path) -> tuple[TrainState, dict[str, torch.Tensor]] | None:
    """Return the newest undamaged checkpoint and restore its random states; None without one."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            facts = json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))
            whole = hash_file(path / "tensors.safetensors") == facts.pop("sha256")
            tensors = load_file(path / "tensors.safetensors") if whole else {}
        except (OSError, ValueError, KeyError, SafetensorError):
            whole = False
        if not whole:
            say(f"{path.name} is damaged; falling back to the checkpoint before it.")
            shutil.rmtree(path)
            continue
        _restore_random(tensors, facts.pop("python_random"))
        return TrainState(**facts), tensors
    return None


def load_weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Return the exact weights of the checkpoint of `step`, by parameter name."""
    # The moments, twice as large, are not read.
    with safe_open(folder / f"step-{step:06}" / "tensors.safetensors", framework="pt") as file:
        return {
            name.removeprefix("master."): file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118 it isn't a dictionary
            if name.startswith("master.")
        }


def prune(folder: Path, keep: int, every: int = 0) -> None:
    """Delete all checkpoints but the newest `keep`, the best step of each of them, and the newest
    `LANDMARKS` at multiples of `every`."""
    whole = sorted(folder.glob("step-*"))
    newest = whole[-keep:]
    bests = {json.loads((p / "checkpoint.json").read_text())["best_step"] for p in newest}
    kept = {path.name for path in newest} | {f"step-{step:06}" for step in bests}
    if every:
        landmarks = [path.name for path in whole if step_of(path) % every == 0]
        kept |= set(landmarks[-LANDMARKS:])
    for path in folder.iterdir():
        if path.name not in kept:
            shutil.rmtree(path)


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was saved."""
    return int(checkpoint.name.removeprefix("step-"))


def _random_states() -> dict[str, torch.Tensor]:
    numpy: Any = np.random.get_state(legacy=True)
    states = {
        "rng.torch": torch.get_rng_state(),
        "rng.numpy": torch.from_numpy(np.asarray(numpy[1], dtype=np.int64)),
        "rng.numpy_position": torch.tensor([int(numpy[2])]),
    }
    if torch.cuda.is_available():
        states["rng.cuda"] = torch.cuda.get_rng_state()
    return states


def _python_random() -> list[Any]:
    version, numbers, gauss = random.getstate()
    return [version, list(numbers), gauss]


def _restore_random(tensors: Mapping[str, torch.Tensor], python: list[Any]) -> None:
    random.setstate((python[0], tuple(python[1]), python[2]))
    torch.set_rng_state(tensors["rng.torch"])
    numbers = tensors["rng.numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", numbers, int(tensors["rng.numpy_position"][0]), 0, 0.0))
    if "rng.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["rng.cuda"])
