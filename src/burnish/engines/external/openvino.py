"""OpenVINO as an engine: its folder in a child process, sent our own tokens."""

import importlib.util
import json

import psutil

from burnish.core.errors import Unavailable
from burnish.engines.external.base import DEFAULT_LAUNCH, LaunchOptions
from burnish.engines.external.process import EngineProcess
from burnish.engines.external.stepwise import StepwiseEngine
from burnish.models.artifact import Artifact


class OpenVinoEngine(StepwiseEngine):
    """Answers with a folder of `export.formats.openvino`. `close` ends its process."""

    weights_pattern = "openvino_model.bin"

    def __init__(self, artifact: Artifact, launch_options: LaunchOptions = DEFAULT_LAUNCH) -> None:
        """Start the engine; the default context is the model's own.

        Raises Unavailable without openvino-genai, EngineFailed if the folder can't be loaded.
        """
        check_openvino_installed()
        super().__init__(artifact, launch_options)
        config = json.loads((artifact.path / "generation_config.json").read_text(encoding="utf-8"))
        max_context = int(artifact.lineage["export"]["context_length"])
        self.context_length = min(launch_options.context or max_context, max_context)
        self._eos_token_ids = config["eos_token_id"]
        self.child = self.start_process()

    def start_process(self) -> EngineProcess:
        """Start OpenVINO in a child process. Raises EngineFailed."""
        parameters = {
            "folder": str(self.folder.absolute()),
            "ends": self._eos_token_ids,
            "threads": self.launch_options.threads or psutil.cpu_count(logical=False) or 1,
        }
        return EngineProcess(
            "OpenVINO", ("burnish.engines.external.openvino_server", json.dumps(parameters))
        )


def check_openvino_installed() -> None:
    """Raise Unavailable if OpenVINO GenAI isn't installed."""
    if importlib.util.find_spec("openvino_genai") is None:
        raise Unavailable("OpenVINO needs openvino-genai.", "pip install 'burnish[openvino]'")


def open_openvino(
    artifact: Artifact, launch_options: LaunchOptions = DEFAULT_LAUNCH
) -> OpenVinoEngine:
    """Open the engine of an exported OpenVINO folder. Raises Unavailable, EngineFailed."""
    return OpenVinoEngine(artifact, launch_options)
