"""Any engine by name: the artifact's kind says which."""

from collections.abc import Callable
from pathlib import Path

from burnish.engines.labels import LABELLERS
from burnish.engines.llamacpp import open_llama_cpp
from burnish.engines.local import engine_of, find_artifact
from burnish.engines.onnx import open_onnx
from burnish.engines.openvino import open_openvino
from burnish.engines.protocol import Engine
from burnish.models.artifact import Artifact

#: Kinds of artifacts that aren't language models of `transformers`.
_OPENERS: dict[str, Callable[[Artifact], Engine]] = {
    **LABELLERS,
    "gguf": open_llama_cpp,
    "onnx": open_onnx,
    "openvino": open_openvino,
}


def open_any(source: str | Path) -> Engine:
    """A model by name, a run by id, or an artifact folder, ready to answer.

    Raises NotFound if it is none of them; Unavailable or EngineFailed if its engine doesn't run.
    """
    return any_of(find_artifact(source), source)


def any_of(artifact: Artifact | None, source: str | Path) -> Engine:
    """The same for whoever has looked for the artifact already."""
    if artifact is None or artifact.kind not in _OPENERS:
        return engine_of(artifact, source)
    return _OPENERS[artifact.kind](artifact)
