"""ORT-GenAI behind the engine's protocol: an ONNX folder in a child, asked with our own tokens."""

import importlib.util
import json

import psutil

from burnish.core.errors import Unavailable
from burnish.engines.child import Child
from burnish.engines.stepwise import StepwiseEngine
from burnish.models.artifact import Artifact

#: Longest context that is asked for unless told otherwise: keys and values cost memory at once.
_CONTEXT = 4096


class OnnxEngine(StepwiseEngine):
    """Answers with a folder that ORT-GenAI's model builder made. `close` ends its process."""

    weights = "model.onnx*"

    def __init__(self, artifact: Artifact, threads: int = 0, context: int = 0) -> None:
        """Zero threads are as many as cores; no context is the model's own, but at most 4096.

        Raises Unavailable without onnxruntime-genai, EngineFailed if the folder can't be loaded.
        """
        if importlib.util.find_spec("onnxruntime_genai") is None:
            raise Unavailable("ONNX needs onnxruntime-genai.", "pip install 'burnish[onnx]'")
        super().__init__(artifact)
        told = json.loads((artifact.path / "genai_config.json").read_text(encoding="utf-8"))
        self.context_length = min(context or _CONTEXT, int(told["model"]["context_length"]))
        asked = {
            "folder": str(artifact.path.absolute()),
            "context": self.context_length,
            "threads": threads or psutil.cpu_count(logical=False) or 1,
        }
        self.child = Child("ORT-GenAI", ("burnish.engines.onnx_child", json.dumps(asked)))


def open_onnx(artifact: Artifact) -> OnnxEngine:
    """The engine of an exported ONNX folder. Raises Unavailable, EngineFailed."""
    return OnnxEngine(artifact)
