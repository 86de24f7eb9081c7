"""`olive convert-adapters`: an adapter's weights in another file, by the ONNX graph's names."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from burnish.compat.olive.flags import BadFlag, Flag, Told, one_of
from burnish.compat.olive.inputs import trained
from burnish.compat.olive.report import Report
from burnish.core.atomic import whole_folder
from burnish.export.formats.onnx_multi_lora import (
    SUFFIX,
    in_graph,
    lora_weights,
    write_adapter_file,
)

Weights = Mapping[str, np.ndarray]
_FLOAT = "adapters stay in floating point beside a base of 4 bits."


def _as_torch(file: Path, weights: Weights) -> None:
    torch.save({name: torch.from_numpy(one) for name, one in weights.items()}, file)


def _as_numpy(file: Path, weights: Weights) -> None:
    np.savez(file, allow_pickle=False, **dict(weights))


def _as_safetensors(file: Path, weights: Weights) -> None:
    from safetensors.numpy import save_file

    save_file(dict(weights), file)


#: Olive's word → the file's ending, and who writes it.
_FORMATS: Mapping[str, tuple[str, Callable[[Path, Weights], None]]] = {
    "onnx_adapter": (SUFFIX, write_adapter_file),
    "pt": (".pt", _as_torch),
    "numpy": (".npz", _as_numpy),
    "safetensors": (".safetensors", _as_safetensors),
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


def convert_adapters(told: Told) -> Report:
    """Write `adapter_weights` with the format's ending into `--output_path`.

    Raises BadFlag, NotFound, CannotExport, AlreadyThere and leaves nothing then.
    """
    if "--adapter_path" not in told.values:
        raise BadFlag("--adapter_path is missing.", "Add --adapter_path VALUE.")
    ending, write = _FORMATS[told.values.get("--adapter_format", "onnx_adapter")]
    output = Path(told.values.get("--output_path", "converted-adapter")).absolute()
    artifact = trained(told.values["--adapter_path"])
    dtype = told.values.get("--dtype", "float32")
    weights = {name: one.astype(dtype) for name, one in in_graph(lora_weights(artifact)).items()}
    file = f"adapter_weights{ending}"
    with whole_folder(output) as draft:
        write(draft / file, weights)
    return Report(
        "convert-adapters", output, told.notes,
        {"file": file, "base": artifact.base, "dtype": dtype, "weights": len(weights)},
        next="burnish export RUN --to onnx --with RUN writes the base whose graph takes such files",
    )  # fmt: skip
