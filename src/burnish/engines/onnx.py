"""ORT-GenAI behind the engine's protocol: an ONNX folder in a child, asked with our own tokens."""

import importlib.util
import json

import psutil

from burnish.core.errors import Unavailable
from burnish.engines.alone import USUAL, Running
from burnish.engines.child import Child
from burnish.engines.stepwise import StepwiseEngine
from burnish.models.artifact import Artifact

#: Longest context that is asked for unless told otherwise: keys and values cost memory at once.
_CONTEXT = 4096


class OnnxEngine(StepwiseEngine):
    """Answers with a folder that ORT-GenAI's model builder made. `close` ends its process."""

    weights = "model.onnx*"

    def __init__(self, artifact: Artifact, running: Running = USUAL) -> None:
        """No context is the model's own, but at most 4096.

        Raises Unavailable without onnxruntime-genai, EngineFailed if the folder can't be loaded.
        """
        if importlib.util.find_spec("onnxruntime_genai") is None:
            raise Unavailable("ONNX needs onnxruntime-genai.", "pip install 'burnish[onnx]'")
        super().__init__(artifact, running)
        told = json.loads((artifact.path / "genai_config.json").read_text(encoding="utf-8"))
        self.context_length = min(running.context or _CONTEXT, int(told["model"]["context_length"]))
        self.child = self.start()

    def start(self) -> Child:
        """ORT-GenAI in a process of its own. Raises EngineFailed."""
        asked = {
            "folder": str(self.folder.absolute()),
            "context": self.context_length,
            "threads": self.running.threads or psutil.cpu_count(logical=False) or 1,
        }
        return Child("ORT-GenAI", ("burnish.engines.onnx_child", json.dumps(asked)))


def open_onnx(artifact: Artifact, running: Running = USUAL) -> OnnxEngine:
    """The engine of an exported ONNX folder. Raises Unavailable, EngineFailed."""
    return OnnxEngine(artifact, running)
