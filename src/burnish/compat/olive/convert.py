"""`olive convert-adapters`: an adapter's weights in another file, by the ONNX graph's names."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from burnish.compat.olive.flags import BadFlag, Flag, ParsedFlags, one_of
from burnish.compat.olive.inputs import find_trained
from burnish.compat.olive.report import OliveReport
from burnish.core.atomic import atomic_folder
from burnish.export.formats.onnx_multi_lora import (
    SUFFIX,
    extract_lora_weights,
    graph_inputs,
    write_adapter_file,
)

AdapterWeights = Mapping[str, np.ndarray]
_FLOAT = "adapters stay in floating point beside a base of 4 bits."


def _write_torch(file: Path, weights: AdapterWeights) -> None:
    torch.save({name: torch.from_numpy(one) for name, one in weights.items()}, file)


def _write_numpy(file: Path, weights: AdapterWeights) -> None:
    np.savez(file, allow_pickle=False, **dict(weights))


def _write_safetensors(file: Path, weights: AdapterWeights) -> None:
    from safetensors.numpy import save_file

    save_file(dict(weights), file)


#: Olive's word → the file's ending, and who writes it.
_FORMATS: Mapping[str, tuple[str, Callable[[Path, AdapterWeights], None]]] = {
    "onnx_adapter": (SUFFIX, write_adapter_file),
    "pt": (".pt", _write_torch),
    "numpy": (".npz", _write_numpy),
    "safetensors": (".safetensors", _write_safetensors),
}
FLAGS: Mapping[str, Flag] = {
    "--adapter_path": Flag(),
    "--output_path": Flag(),
    "--adapter_format": Flag(one_of({}, *_FORMATS)),
    "--dtype": Flag(one_of({}, "float32", "float16")),
    "--quantize_int4": Flag(bool, refused=_FLOAT),
    "--int4_block_size": Flag(refused=_FLOAT),
    "--int4_quantization_mode": Flag(refused=_FLOAT),
    "--log_level": Flag(ignored="progress goes to stderr; `burnish -q` silences it"),
}


def convert_adapters(parsed: ParsedFlags) -> OliveReport:
    """Write `adapter_weights` with the format's ending into `--output_path`.

    Raises BadFlag, NotFound, CannotExport, AlreadyThere and leaves nothing then.
    """
    if "--adapter_path" not in parsed.values:
        raise BadFlag("--adapter_path is missing.", "Add --adapter_path VALUE.")
    ending, write = _FORMATS[parsed.values.get("--adapter_format", "onnx_adapter")]
    output = Path(parsed.values.get("--output_path", "converted-adapter")).absolute()
    artifact = find_trained(parsed.values["--adapter_path"])
    dtype = parsed.values.get("--dtype", "float32")
    weights = {
        name: one.astype(dtype)
        for name, one in graph_inputs(extract_lora_weights(artifact)).items()
    }
    file = f"adapter_weights{ending}"
    with atomic_folder(output) as draft:
        write(draft / file, weights)
    return OliveReport(
        "convert-adapters", output, parsed.notes,
        {"file": file, "base": artifact.base, "dtype": dtype, "weights": len(weights)},
        next="burnish export RUN --to onnx --with RUN writes the base whose graph takes such files",
    )  # fmt: skip
