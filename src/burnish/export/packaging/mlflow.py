"""An exported folder as an MLflow model (`pyfunc`): loader metadata beside the weights.

MLflow's own transformers flavor isn't used: it fails with transformers 5.23.
"""

import platform
import shutil
from importlib.metadata import version
from pathlib import Path

import yaml
from transformers import PreTrainedTokenizerBase

from burnish.core.atomic import write_atomic
from burnish.core.settings import disable_mlflow_telemetry
from burnish.export.packaging import mlflow_chat
from burnish.models.artifact import Artifact

_LOADER = "burnish_chat"
_NEEDS = ("mlflow-skinny", "pandas", "safetensors", "torch", "transformers")


def write_mlflow(written: Artifact, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Write `MLmodel`, `requirements.txt`, `python_env.yaml` and the code that MLflow loads."""
    disable_mlflow_telemetry()
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import add_to_model
    from mlflow.types.llm import CHAT_MODEL_INPUT_SCHEMA, CHAT_MODEL_OUTPUT_SCHEMA

    folder = written.path
    (folder / "code").mkdir(exist_ok=True)
    shutil.copy2(Path(mlflow_chat.__file__), folder / "code" / f"{_LOADER}.py")
    needs = "".join(f"{library}=={version(library).split('+')[0]}\n" for library in _NEEDS)
    write_atomic(folder / "requirements.txt", needs)
    environment = {
        "python": platform.python_version(),
        "build_dependencies": ["pip"],
        "dependencies": ["-r requirements.txt"],
    }
    write_atomic(folder / "python_env.yaml", yaml.safe_dump(environment, sort_keys=False))
    model = Model(
        signature=ModelSignature(CHAT_MODEL_INPUT_SCHEMA, CHAT_MODEL_OUTPUT_SCHEMA),
        metadata={"task": "llm/v1/chat", "name": name},
    )
    add_to_model(model, loader_module=_LOADER, code="code", python_env="python_env.yaml")
    model.save(str(folder / "MLmodel"))
