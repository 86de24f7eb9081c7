"""OpenVINO behind the engine's protocol: its folder in a child, asked with our own tokens."""

import importlib.util
import json

import psutil

from burnish.core.errors import Unavailable
from burnish.engines.external.base import DEFAULT_LAUNCH, LaunchOptions
from burnish.engines.external.process import EngineProcess
from burnish.engines.external.stepwise import StepwiseEngine
from burnish.models.artifact import Artifact


class OpenVinoEngine(StepwiseEngine):
    """Answers with a folder of `export.openvino`. `close` ends its process."""

    weights_pattern = "openvino_model.bin"

    def __init__(self, artifact: Artifact, running: LaunchOptions = DEFAULT_LAUNCH) -> None:
        """No context is the model's own.

        Raises Unavailable without openvino-genai, EngineFailed if the folder can't be loaded.
        """
        check_openvino_installed()
        super().__init__(artifact, running)
        told = json.loads((artifact.path / "generation_config.json").read_text(encoding="utf-8"))
        most = int(artifact.lineage["export"]["context_length"])
        self.context_length = min(running.context or most, most)
        self._told_ends = told["eos_token_id"]
        self.child = self.start_process()

    def start_process(self) -> EngineProcess:
        """OpenVINO in a process of its own. Raises EngineFailed."""
        asked = {
            "folder": str(self.folder.absolute()),
            "ends": self._told_ends,
            "threads": self.launch_options.threads or psutil.cpu_count(logical=False) or 1,
        }
        return EngineProcess(
            "OpenVINO", ("burnish.engines.external.openvino_server", json.dumps(asked))
        )


def check_openvino_installed() -> None:
    """Raises Unavailable if OpenVINO GenAI isn't installed."""
    if importlib.util.find_spec("openvino_genai") is None:
        raise Unavailable("OpenVINO needs openvino-genai.", "pip install 'burnish[openvino]'")


def open_openvino(artifact: Artifact, running: LaunchOptions = DEFAULT_LAUNCH) -> OpenVinoEngine:
    """The engine of an exported OpenVINO folder. Raises Unavailable, EngineFailed."""
    return OpenVinoEngine(artifact, running)
