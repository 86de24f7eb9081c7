"""Open an engine by name; the artifact's kind decides which."""

from collections.abc import Callable
from pathlib import Path

from burnish.engines.external.base import DEFAULT_LAUNCH, LaunchOptions, LogprobEngine
from burnish.engines.external.llamacpp import open_llama_cpp
from burnish.engines.external.onnx import open_onnx
from burnish.engines.external.openvino import open_openvino
from burnish.engines.heads.base import HeadEngine
from burnish.engines.heads.classifier import open_classifier, open_linear
from burnish.engines.heads.token_classifier import open_token_classifier
from burnish.engines.local.engine import LocalEngine
from burnish.engines.local.open import local_engine_for
from burnish.engines.protocol import Engine
from burnish.models.artifact import Artifact
from burnish.models.find_artifact import find_artifact

#: Kinds of artifacts with a head → how to open them.
HEAD_ENGINES: dict[str, Callable[[Artifact], HeadEngine]] = {
    "linear": open_linear,
    "classifier": open_classifier,
    "token_classifier": open_token_classifier,
}

#: Kinds of exported folders → how to start the engine in a child process.
EXTERNAL_ENGINES: dict[str, Callable[[Artifact, LaunchOptions], LogprobEngine]] = {
    "gguf": open_llama_cpp,
    "onnx": open_onnx,
    "openvino": open_openvino,
}


def open_engine(source: str | Path) -> Engine:
    """Open a model by name, a run by id, or an artifact folder, ready to answer.

    Raises NotFound if it is none of them; Unavailable or EngineFailed if its engine doesn't run.
    """
    return engine_for(find_artifact(source), source)


def engine_for(artifact: Artifact | None, source: str | Path) -> Engine:
    """Open the engine of an artifact that was already looked up in `source`."""
    if artifact is not None and artifact.kind in HEAD_ENGINES:
        return HEAD_ENGINES[artifact.kind](artifact)
    return _text_engine_for(artifact, source)


def open_text_engine(source: str | Path) -> LocalEngine | LogprobEngine:
    """Open an engine that generates text. Raises BadRecipe for a classifier."""
    return _text_engine_for(find_artifact(source), source)


def _text_engine_for(artifact: Artifact | None, source: str | Path) -> LocalEngine | LogprobEngine:
    if artifact is not None and artifact.kind in EXTERNAL_ENGINES:
        return EXTERNAL_ENGINES[artifact.kind](artifact, DEFAULT_LAUNCH)
    return local_engine_for(artifact, source)
