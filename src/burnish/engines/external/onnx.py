"""ORT-GenAI behind the engine's protocol: an ONNX folder in a child, asked with our own tokens."""

import importlib.util
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import psutil

from burnish.core.errors import Unavailable
from burnish.engines.external.base import DEFAULT_LAUNCH, LaunchOptions
from burnish.engines.external.process import EngineProcess
from burnish.engines.external.stepwise import StepwiseEngine
from burnish.models.artifact import Artifact

#: Longest context that is asked for unless told otherwise: keys and values cost memory at once.
_MAX_CONTEXT = 4096


@dataclass
class SharedProcess:
    """One child for several engines: the first that needs it starts it, and starts it again."""

    start: Callable[[], EngineProcess]
    _child: EngineProcess | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ensure_running(self) -> EngineProcess:
        """The child that runs. Raises EngineFailed if it can't be started."""
        with self._lock:
            if self._child is None or not self._child.alive:
                self._child = self.start()
            return self._child


class OnnxEngine(StepwiseEngine):
    """Answers with a folder that ORT-GenAI's model builder made. `close` ends its process."""

    weights_pattern = "model.onnx*"

    def __init__(
        self,
        artifact: Artifact,
        running: LaunchOptions = DEFAULT_LAUNCH,
        host: SharedProcess | None = None,
    ) -> None:
        """No context is the model's own, but at most 4096; `host` has the child of the same folder.

        Raises Unavailable without onnxruntime-genai, EngineFailed if the folder can't be loaded.
        """
        if importlib.util.find_spec("onnxruntime_genai") is None:
            raise Unavailable("ONNX needs onnxruntime-genai.", "pip install 'burnish[onnx]'")
        super().__init__(artifact, running)
        told = json.loads((artifact.path / "genai_config.json").read_text(encoding="utf-8"))
        self.context_length = min(
            running.context or _MAX_CONTEXT, int(told["model"]["context_length"])
        )
        export = artifact.lineage["export"]
        self.adapters = [one["file"] for one in export.get("adapters", {}).values()]
        self.adapter: str | None = export.get("adapter")
        self.extra_fields = {"adapter": self.adapter}
        self.host = host or SharedProcess(self._launch)
        self.child = self.start_process()

    def start_process(self) -> EngineProcess:
        """The process that has the folder in memory. Raises EngineFailed."""
        return self.host.ensure_running()

    def _launch(self) -> EngineProcess:
        asked = {
            "folder": str(self.folder.absolute()),
            "context": self.context_length,
            "threads": self.launch_options.threads or psutil.cpu_count(logical=False) or 1,
            "adapters": self.adapters,
            "adapter": self.adapter,
        }
        return EngineProcess(
            "ORT-GenAI", ("burnish.engines.external.onnx_server", json.dumps(asked))
        )


def list_adapters(artifact: Artifact) -> list[Artifact]:
    """What a folder of several adapters answers as: itself with each of them, in their order."""
    export = artifact.lineage["export"]
    return [
        replace(
            artifact,
            system=one["system"],
            lineage={**artifact.lineage, "run": name, "export": {**export, "adapter": one["file"]}},
        )
        for name, one in export.get("adapters", {}).items()
    ]


def open_onnx(artifact: Artifact, running: LaunchOptions = DEFAULT_LAUNCH) -> OnnxEngine:
    """The engine of an exported ONNX folder, with the first adapter of several.

    Raises Unavailable, EngineFailed.
    """
    several = [] if "adapter" in artifact.lineage["export"] else list_adapters(artifact)
    return OnnxEngine(several[0] if several else artifact, running)


def open_onnx_adapters(
    artifact: Artifact, running: LaunchOptions = DEFAULT_LAUNCH
) -> list[OnnxEngine]:
    """An engine for each adapter of a folder, all with one process. Raises as `open_onnx` does."""
    first, *others = list_adapters(artifact)
    opened = [OnnxEngine(first, running)]
    return opened + [OnnxEngine(other, running, opened[0].host) for other in others]
