"""Several LoRA adapters beside one ONNX base: ORT-GenAI loads the base once and switches.

The model builder puts one adapter's weights into the graph. Here its branches are kept and their
weights become inputs with an empty default (rank 0, which adds nothing), as ONNX Runtime's adapter
format expects; `NAME.onnx_adapter` provides their values for a request.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from peft import LoraConfig, get_peft_model

from burnish.core.errors import BadData
from burnish.export.formats.gguf_lora import check_not_rounded, extract_lora_pairs
from burnish.export.formats.gguf_tokenizer import CannotExport
from burnish.export.formats.onnx import build_onnx
from burnish.models.artifact import Artifact
from burnish.models.chat_template import end_of_turn
from burnish.models.merge import load_adapted_model

SUFFIX = ".onnx_adapter"
_SIDES = ("lora_A", "lora_B")
#: The name of the one dimension that may differ between adapters.
_RANK = "lora_rank"
_EXPORT_ALONE = "Use --to onnx without --with, which merges it."


def extract_lora_weights(artifact: Artifact) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return a plain LoRA adapter by layer, float32: A (in, rank), and B (rank, out) with the
    scaling.

    Raises CannotExport for any other method.
    """
    if artifact.kind != "adapter":
        raise CannotExport(
            f"{artifact.path} is not an adapter.", "Name a run of train.method=lora."
        )
    check_not_rounded(artifact)
    adapted = load_adapted_model(artifact)[0]
    config: Any = adapted.peft_config["default"]
    if config.peft_type != "LORA" or config.use_dora or config.bias != "none":
        raise CannotExport("Only a plain LoRA adapter can be switched.", _EXPORT_ALONE)
    pairs = extract_lora_pairs(adapted, _EXPORT_ALONE)
    return {name: (down.T.numpy(), up.T.numpy()) for name, (down, up) in pairs.items()}


def graph_inputs(weights: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the weights by the model builder's input names."""
    return {
        _input_name(layer.replace("self_attn", "attn"), side): np.ascontiguousarray(matrix)
        for layer, pair in weights.items()
        for side, matrix in zip(_SIDES, pair, strict=True)
    }


def write_adapter_file(file: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Write ONNX Runtime's adapter format: values for the graph's inputs by name."""
    import onnxruntime

    adapter_format = onnxruntime.AdapterFormat()
    adapter_format.set_adapter_version(1)
    adapter_format.set_model_version(1)
    values = onnxruntime.OrtValue.ortvalue_from_numpy
    adapter_format.set_parameters({name: values(weight) for name, weight in weights.items()})
    adapter_format.export_adapter(str(file.absolute()))


def write_multi_adapter(
    folder: Path, adapters: Mapping[str, Artifact], precision: str
) -> dict[str, Any]:
    """Write the adapters' base for ORT-GenAI and `NAME.onnx_adapter` for each into `folder`.

    Returns the adapters' files and system prompts by name. Raises BadData for adapters of different
    bases or templates, CannotExport for one that isn't plain LoRA or doesn't match the graph.
    """
    _check_same_base(adapters)
    weights = {name: extract_lora_weights(artifact) for name, artifact in adapters.items()}
    adapted, tokenizer = load_adapted_model(next(iter(adapters.values())))
    base = adapted.unload()
    base.generation_config.eos_token_id = sorted(end_of_turn(tokenizer))
    layers = sorted({layer for weight in weights.values() for layer in weight})
    with tempfile.TemporaryDirectory() as temporary:
        source, branches = Path(temporary) / "base", Path(temporary) / "branches"
        base.save_pretrained(source, safe_serialization=True)
        tokenizer.save_pretrained(source)
        config = LoraConfig(r=1, target_modules=layers, task_type="CAUSAL_LM")
        get_peft_model(base, config).save_pretrained(str(branches), save_embedding_layers=False)
        build_onnx(source, folder, precision, branches)
    tokenizer.save_pretrained(folder)
    inputs_by_adapter = {name: graph_inputs(weight) for name, weight in weights.items()}
    widths = {
        key: weight.shape[_SIDES.index(_lora_side(key))]
        for inputs in inputs_by_adapter.values()
        for key, weight in inputs.items()
    }
    kind = open_branches(folder / "model.onnx", widths)
    for name, inputs in inputs_by_adapter.items():
        write_adapter_file(
            folder / f"{name}{SUFFIX}", {k: v.astype(kind) for k, v in inputs.items()}
        )
    return {
        name: {"file": f"{name}{SUFFIX}", "system": artifact.system}
        for name, artifact in adapters.items()
    }


def open_branches(file: Path, widths: Mapping[str, int]) -> np.dtype[Any]:
    """Turn the LoRA weights of a builder's graph into inputs with an empty default; return their
    dtype. Quantized LoRA weights become plain products again.

    `widths` are the layers' own sizes by input name. Raises CannotExport if the graph has other
    branches than these.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(file, load_external_data=False)
    graph = model.graph
    kind = next(out for out in graph.output if out.name == "logits").type.tensor_type.elem_type
    dtype: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(kind)
    known = {item.name: item for item in graph.value_info}
    replaced, empties = set(), []
    for node in graph.node:
        name = _branch_weight(node.name)
        if name is None:
            continue
        if name not in widths:
            raise CannotExport(
                f"The ONNX graph has a branch {name} that belongs to no adapter.", _EXPORT_ALONE
            )
        replaced |= set(node.input[1:])
        is_down, width = _lora_side(name) == _SIDES[0], widths[name]
        shape = (width, _RANK) if is_down else (_RANK, width)
        graph.input.append(helper.make_tensor_value_info(name, kind, shape))
        empty = np.zeros((width, 0) if is_down else (0, width), dtype)
        empties.append(numpy_helper.from_array(empty, name))
        if is_down:
            del known[node.output[0]].type.tensor_type.shape.dim[-1]
            known[node.output[0]].type.tensor_type.shape.dim.add().dim_param = _RANK
        node.op_type, node.domain = "MatMul", ""
        del node.attribute[:]
        del node.input[1:]
        node.input.append(name)
    if missing := set(widths) - {empty.name for empty in empties}:
        raise CannotExport(f"{min(missing)} is missing in the ONNX graph.", _EXPORT_ALONE)
    kept = [item for item in graph.initializer if item.name not in replaced]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *empties])
    onnx.save(model, file)
    return dtype


def _check_same_base(adapters: Mapping[str, Artifact]) -> None:
    """Raise BadData unless all were trained on the same base with the same template."""
    for what, fact in (
        ("base", lambda facts: facts["base"]["sha256"]),
        ("template", _template_hash),
    ):
        if len({fact(artifact.lineage) for artifact in adapters.values()}) > 1:
            raise BadData(
                f"{', '.join(adapters)} were not trained with the same {what}.",
                "Adapters share a folder only if they were; export the others alone.",
            )


def _template_hash(lineage: Mapping[str, Any]) -> str:
    return str(lineage.get("template_sha256"))


def _input_name(layer: str, side: str) -> str:
    return f"{layer}.{side}.MatMul.weight"


def _lora_side(name: str) -> str:
    return _SIDES[0] if f".{_SIDES[0]}." in name else _SIDES[1]


def _branch_weight(node: str) -> str | None:
    """Return the weight of a LoRA branch's node `/model/.../q_proj/lora_A/MatMul`; None for another
    node."""
    for side in _SIDES:
        layer, separator, _ = node.partition(f"/{side}/MatMul")
        if separator:
            return _input_name(layer.strip("/").replace("/", "."), side)
    return None
