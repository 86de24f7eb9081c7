"""Any engine by name: the artifact's kind says which."""

from collections.abc import Callable
from pathlib import Path

from burnish.engines.external.base import USUAL, Running, TellingEngine
from burnish.engines.external.llamacpp import open_llama_cpp
from burnish.engines.external.onnx import open_onnx
from burnish.engines.external.openvino import open_openvino
from burnish.engines.heads.base import HeadedEngine
from burnish.engines.heads.classifier import open_classifier, open_linear
from burnish.engines.heads.token_classifier import open_token_classifier
from burnish.engines.local.engine import LocalEngine
from burnish.engines.local.open import engine_of
from burnish.engines.protocol import Engine
from burnish.models.artifact import Artifact
from burnish.models.find_artifact import find_artifact

#: Kinds of artifacts with a head.
HEADED: dict[str, Callable[[Artifact], HeadedEngine]] = {
    "linear": open_linear,
    "classifier": open_classifier,
    "token_classifier": open_token_classifier,
}

#: Kinds of exported folders that an engine in a child answers with.
IN_CHILDREN: dict[str, Callable[[Artifact, Running], TellingEngine]] = {
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
    if artifact is not None and artifact.kind in HEADED:
        return HEADED[artifact.kind](artifact)
    return _writer_of(artifact, source)


def open_writer(source: str | Path) -> LocalEngine | TellingEngine:
    """The same for what makes text: BadRecipe if it is a classifier."""
    return _writer_of(find_artifact(source), source)


def _writer_of(artifact: Artifact | None, source: str | Path) -> LocalEngine | TellingEngine:
    if artifact is not None and artifact.kind in IN_CHILDREN:
        return IN_CHILDREN[artifact.kind](artifact, USUAL)
    return engine_of(artifact, source)
