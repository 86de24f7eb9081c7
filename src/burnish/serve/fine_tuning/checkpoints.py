"""Export the adapters in a finished run's checkpoints as models."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file

from burnish.core.atomic import atomic_folder, hash_file, write_json
from burnish.core.runs import Run
from burnish.models.local_models import ARTIFACT_FILE
from burnish.train.loop.checkpoint import LANDMARKS, load_weights, step_of

_WEIGHTS = "adapter_model.safetensors"


def export_steps(run: Run, every: int) -> None:
    """Write an artifact `steps/step-N` for each of the last checkpoints at multiples of `every`.

    The hosted API keeps the models of the last three epochs. A checkpoint has float32 weights; they
    are rounded to the run's own artifact's dtype.
    """
    checkpoints = sorted((run.path / "checkpoints").glob("step-*"))
    chosen = [path for path in checkpoints if step_of(path) % every == 0 or path == checkpoints[-1]]
    for path in chosen[-LANDMARKS:]:
        if not (run.path / "steps" / path.name).exists():
            _export_step(run, step_of(path))


def list_exported_steps(run: Run) -> dict[int, Path]:
    """Return the artifact folder of each exported step."""
    return {step_of(path): path for path in sorted((run.path / "steps").glob("step-*"))}


def _export_step(run: Run, step: int) -> None:
    exact = load_weights(run.path / "checkpoints", step)
    rounded = {
        name: exact[_parameter_name(name, exact)].to(tensor.dtype).contiguous()
        for name, tensor in load_file(run.artifact / _WEIGHTS).items()
    }
    with atomic_folder(run.path / "steps" / f"step-{step:06}") as draft:
        for file in run.artifact.iterdir():
            if file.name not in (_WEIGHTS, ARTIFACT_FILE):
                shutil.copy2(file, draft)
        save_file(rounded, draft / _WEIGHTS, metadata={"format": "pt"})
        artifact = json.loads((run.artifact / ARTIFACT_FILE).read_text(encoding="utf-8"))
        files = {file.name: hash_file(file) for file in sorted(draft.iterdir())}
        write_json(draft / ARTIFACT_FILE, {**artifact, "step": step, "files": files})


def _parameter_name(name: str, exact: Mapping[str, object]) -> str:
    """Return a parameter's name in the model, which has the adapter's name before `weight`."""
    return name if name in exact else name.replace(".weight", ".default.weight")
