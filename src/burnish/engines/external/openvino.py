"""OpenVINO behind the engine's protocol: its folder in a child, asked with our own tokens."""

import importlib.util
import json

import psutil

from burnish.core.errors import Unavailable
from burnish.engines.external.base import USUAL, Running
from burnish.engines.external.process import Child
from burnish.engines.external.stepwise import StepwiseEngine
from burnish.models.artifact import Artifact


class OpenVinoEngine(StepwiseEngine):
    """Answers with a folder of `export.openvino`. `close` ends its process."""

    weights = "openvino_model.bin"

    def __init__(self, artifact: Artifact, running: Running = USUAL) -> None:
        """No context is the model's own.

        Raises Unavailable without openvino-genai, EngineFailed if the folder can't be loaded.
        """
        refuse_without_openvino()
        super().__init__(artifact, running)
        told = json.loads((artifact.path / "generation_config.json").read_text(encoding="utf-8"))
        most = int(artifact.lineage["export"]["context_length"])
        self.context_length = min(running.context or most, most)
        self._told_ends = told["eos_token_id"]
        self.child = self.start()

    def start(self) -> Child:
        """OpenVINO in a process of its own. Raises EngineFailed."""
        asked = {
            "folder": str(self.folder.absolute()),
            "ends": self._told_ends,
            "threads": self.running.threads or psutil.cpu_count(logical=False) or 1,
        }
        return Child("OpenVINO", ("burnish.engines.external.openvino_server", json.dumps(asked)))


def refuse_without_openvino() -> None:
    """Raises Unavailable if OpenVINO GenAI isn't installed."""
    if importlib.util.find_spec("openvino_genai") is None:
        raise Unavailable("OpenVINO needs openvino-genai.", "pip install 'burnish[openvino]'")


def open_openvino(artifact: Artifact, running: Running = USUAL) -> OpenVinoEngine:
    """The engine of an exported OpenVINO folder. Raises Unavailable, EngineFailed."""
    return OpenVinoEngine(artifact, running)
