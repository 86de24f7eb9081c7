"""Open a model or an artifact as an engine in this process."""

from collections.abc import Callable
from pathlib import Path

import torch

from burnish.core.errors import BadRecipe
from burnish.engines.local.engine import LocalEngine, inference_dtype
from burnish.engines.local.multi_lora import MultiLoraModel
from burnish.models.artifact import Artifact, load_artifact_model
from burnish.models.find_artifact import find_artifact
from burnish.models.load import load_model, load_tokenizer
from burnish.models.local_models import LocalModel, find_model


def open_local_engine(source: str | Path) -> LocalEngine:
    """A language model by name, a run by id, or an artifact folder, ready to answer.

    Raises NotFound if it is none of them, BadRecipe if it is a classifier or a GGUF file.
    """
    return local_engine_for(find_artifact(source), source)


def local_engine_for(artifact: Artifact | None, source: str | Path) -> LocalEngine:
    """The same for whoever has looked for the artifact already: its files were hashed then."""
    # They have engines of this kind too, so that they can only be imported afterwards.
    from burnish.engines.local import seq2seq, vision

    trained: dict[str, Callable[[Artifact, torch.dtype], LocalEngine]] = {
        "seq2seq": seq2seq.open_trained_seq2seq, "vision": vision.open_trained_vision
    }  # fmt: skip
    bases: dict[str, Callable[[LocalModel, torch.dtype], LocalEngine]] = {
        "seq2seq": seq2seq.open_base_seq2seq, "vision": vision.open_base_vision
    }  # fmt: skip
    if artifact is not None:
        if artifact.kind in trained:
            return trained[artifact.kind](artifact, inference_dtype())
        if artifact.kind in _NOT_HERE:
            raise BadRecipe(
                f"{source} is {_NOT_HERE[artifact.kind][0]}", _NOT_HERE[artifact.kind][1]
            )
        model, tokenizer = load_artifact_model(artifact, inference_dtype())
        if hasattr(model, "peft_config"):
            # One adapter and nobody else's: inside the weights it costs no time.
            model = model.merge_and_unload()
        name = str(artifact.lineage.get("run", Path(source).name))
        return LocalEngine(MultiLoraModel(model), tokenizer, name, system=artifact.system)
    local = find_model(str(source))
    if local.kind in bases:
        return bases[local.kind](local, inference_dtype())
    weights = MultiLoraModel(load_model(local, inference_dtype()))
    return LocalEngine(weights, load_tokenizer(local), local.name)


#: Kinds of artifacts that `transformers` doesn't run: what they are, and what to do with them.
_NOT_HERE = {
    "gguf": (
        "a GGUF file; transformers doesn't run it.",
        "Use it in `burnish serve`, `chat` or `evaluate`, or export with --to merged.",
    ),
    "onnx": (
        "an ONNX folder; transformers doesn't run it.",
        "Use it in `burnish serve`, `chat` or `evaluate`, or export with --to merged.",
    ),
    "openvino": (
        "an OpenVINO folder; transformers doesn't run it.",
        "Use it in `burnish serve`, `chat` or `evaluate`, or export with --to merged.",
    ),
    "linear": (
        "a linear classifier: it chooses labels and makes no text.",
        "Serve it with `burnish serve`, measure it with `burnish evaluate`, or name a language "
        "model.",
    ),
    "reward": (
        "a reward model: it says what an answer is worth and makes no text.",
        "burnish evaluate --source RUN measures it on pairs.",
    ),
    "classifier": (
        "a classifier: it chooses labels and makes no text.",
        "Serve it with `burnish serve`, measure it with `burnish evaluate`, or name a language "
        "model.",
    ),
    "token_classifier": (
        "a token classifier: it finds labelled spans and makes no text.",
        "Serve it with `burnish serve`, measure it with `burnish evaluate`, or name a language "
        "model.",
    ),
    "embedder": (
        "an embedding model: it makes vectors and no text.",
        "Name it where vectors are made: `burnish index --embedder`, rag.embedder, or `model` at "
        "/v1/embeddings of a server of this workspace.",
    ),
}
