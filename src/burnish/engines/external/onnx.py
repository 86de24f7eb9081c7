"""ORT-GenAI as an engine: an ONNX folder in a child process, sent our own tokens."""

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

#: Default of the longest context: keys and values take memory from the start.
_MAX_CONTEXT = 4096


@dataclass
class SharedProcess:
    """One child process shared by several engines; the first that needs it starts or restarts
    it."""

    start: Callable[[], EngineProcess]
    _child: EngineProcess | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ensure_running(self) -> EngineProcess:
        """Return the running child. Raises EngineFailed if it can't be started."""
        with self._lock:
            if self._child is None or not self._child.alive:
                self._child = self.start()
            return self._child


class OnnxEngine(StepwiseEngine):
    """Answers with a folder from ORT-GenAI's model builder. `close` ends its process."""

    weights_pattern = "model.onnx*"

    def __init__(
        self,
        artifact: Artifact,
        launch_options: LaunchOptions = DEFAULT_LAUNCH,
        host: SharedProcess | None = None,
    ) -> None:
        """Start the engine; `host` has the child of the same folder.

        The default context is the model's own, but at most 4096. Raises Unavailable without
        onnxruntime-genai, EngineFailed if the folder can't be loaded.
        """
        if importlib.util.find_spec("onnxruntime_genai") is None:
            raise Unavailable("ONNX needs onnxruntime-genai.", "pip install 'burnish[onnx]'")
        super().__init__(artifact, launch_options)
        config = json.loads((artifact.path / "genai_config.json").read_text(encoding="utf-8"))
        self.context_length = min(
            launch_options.context or _MAX_CONTEXT, int(config["model"]["context_length"])
        )
        export = artifact.lineage["export"]
        self.adapters = [adapter["file"] for adapter in export.get("adapters", {}).values()]
        self.adapter: str | None = export.get("adapter")
        self.extra_fields = {"adapter": self.adapter}
        self.host = host or SharedProcess(self._launch)
        self.child = self.start_process()

    def start_process(self) -> EngineProcess:
        """Return the process that has the folder in memory. Raises EngineFailed."""
        return self.host.ensure_running()

    def _launch(self) -> EngineProcess:
        parameters = {
            "folder": str(self.folder.absolute()),
            "context": self.context_length,
            "threads": self.launch_options.threads or psutil.cpu_count(logical=False) or 1,
            "adapters": self.adapters,
            "adapter": self.adapter,
        }
        return EngineProcess(
            "ORT-GenAI", ("burnish.engines.external.onnx_server", json.dumps(parameters))
        )


def list_adapters(artifact: Artifact) -> list[Artifact]:
    """Return the folder's artifact once per adapter, in order."""
    export = artifact.lineage["export"]
    return [
        replace(
            artifact,
            system=adapter["system"],
            lineage={
                **artifact.lineage,
                "run": name,
                "export": {**export, "adapter": adapter["file"]},
            },
        )
        for name, adapter in export.get("adapters", {}).items()
    ]


def open_onnx(artifact: Artifact, launch_options: LaunchOptions = DEFAULT_LAUNCH) -> OnnxEngine:
    """Open the engine of an exported ONNX folder, with the first of several adapters.

    Raises Unavailable, EngineFailed.
    """
    adapters = [] if "adapter" in artifact.lineage["export"] else list_adapters(artifact)
    return OnnxEngine(adapters[0] if adapters else artifact, launch_options)


def open_onnx_adapters(
    artifact: Artifact, launch_options: LaunchOptions = DEFAULT_LAUNCH
) -> list[OnnxEngine]:
    """Open an engine for each adapter of a folder, all with one process. Raises as `open_onnx`
    does."""
    first, *others = list_adapters(artifact)
    opened = [OnnxEngine(first, launch_options)]
    return opened + [OnnxEngine(other, launch_options, opened[0].host) for other in others]
