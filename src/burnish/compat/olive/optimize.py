"""`olive auto-opt`, `optimize` and `quantize`: a model as a folder for ORT-GenAI; and adapters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burnish.compat.olive.finetune import _NO_CODE
from burnish.compat.olive.flags import BadFlag, Flag, ParsedFlags, one_of
from burnish.compat.olive.inputs import find_trained, open_model
from burnish.compat.olive.report import OliveReport
from burnish.core.atomic import atomic_folder, write_json

_ONE_BUILDER = "the folder is always made by ORT-GenAI's model builder"
_CPU = "burnish writes ONNX for the CPU; for a GPU use `burnish export --to merged` with vLLM."
_UINT8 = "int8 loses next to nothing as it is, symmetric."
_SIZES = "blocks of 16, 32, 64 and 128 weights share a scale."
_OTHER_DEVICES = dict.fromkeys(("gpu", "npu"), _CPU)
_PROVIDERS = {
    f"{name}ExecutionProvider": _CPU
    for name in ("CUDA", "DML", "Dml", "QNN", "OpenVINO", "VitisAI", "WebGpu", "NvTensorRTRTX")
}
_CALIBRATED_ALGORITHMS = dict.fromkeys(
    ("awq", "gptq", "hqq", "spinquant", "quarot", "lpbq", "seqmse", "adaround", "nvmo"),
    "burnish rounds to nearest in blocks of 32 (rtn), and the parity gate says what it costs.",
)
_COMMON: Mapping[str, Flag] = {
    "--model_name_or_path": Flag(),
    "--adapter_path": Flag(),
    "--output_path": Flag(),
    "--task": Flag(one_of({}, "text-generation", "text-generation-with-past")),
    "--trust_remote_code": Flag(bool, ignored=_NO_CODE),
    "--log_level": Flag(ignored="progress goes to stderr; `burnish -q` silences it"),
    "--cache_dir": Flag(ignored="the machine decides"),
    "--clean": Flag(bool, ignored="there is no cache of earlier results"),
    "--device": Flag(one_of(_OTHER_DEVICES, "cpu")),
    "--provider": Flag(one_of(_PROVIDERS, "CPUExecutionProvider")),
    "--precision": Flag(one_of({"uint8": _UINT8}, "int4", "uint4", "int8", "fp16", "fp32")),
    "--use_ort_genai": Flag(bool, ignored=_ONE_BUILDER),
    "--use_model_builder": Flag(bool, ignored=_ONE_BUILDER),
    "--block_size": Flag(one_of({"-1": _SIZES, "256": _SIZES}, "16", "32", "64", "128")),
    "--enable_search": Flag(bool, refused="use `burnish export RUN --for-this-machine`."),
    "--data_name": Flag(refused="rounding to nearest reads no data."),
}  # fmt: skip
_OPTIMIZE: Mapping[str, Flag] = {
    **_COMMON,
    "--exporter": Flag(
        one_of(
            {"dynamo_exporter": _ONE_BUILDER, "torchscript_exporter": _ONE_BUILDER}, "model_builder"
        )
    ),
    "--surgeries": Flag(refused="burnish leaves the builder's graph as it is."),
}
FLAGS: Mapping[str, Mapping[str, Flag]] = {
    "auto-opt": {
        **_OPTIMIZE,
        "--use_dynamo_exporter": Flag(bool, refused=_ONE_BUILDER),
        "--num-splits": Flag(refused="the model stays in one piece."),
        "--memory": Flag(refused="use `burnish export RUN --for-this-machine --memory 1GB`."),
    },
    "optimize": _OPTIMIZE,
    "quantize": {
        **_COMMON,
        "--algorithm": Flag(one_of(_CALIBRATED_ALGORITHMS, "rtn")),
        "--implementation": Flag(ignored="there is one: ORT-GenAI's model builder"),
    },
    "extract-adapters": {
        "--model_name_or_path": Flag(),
        "--output_path": Flag(),
        "--adapter_type": Flag(one_of({"loha": "burnish trains no LoHa."}, "lora", "dora")),
        "--dtype": Flag(ignored="the adapter keeps the number format that it was trained in"),
        "--cache_dir": Flag(ignored="the machine decides"),
        "--log_level": _COMMON["--log_level"],
    },
    "generate-adapter": {
        "--base_model_path": Flag(),
        "--adapter_paths": Flag(),
        "--output_path": Flag(),
        "--precision": Flag(one_of({}, "q8_0", "f16", "bf16", "f32")),
        "--log_level": _COMMON["--log_level"],
    },
}
#: What Olive takes where --precision isn't given: auto-opt and optimize leave float32.
_PRECISIONS = {"auto-opt": "fp32", "optimize": "fp32", "quantize": "int4"}
_DEPRECATED = {"auto-opt": "Olive has replaced auto-opt by optimize; burnish reads both."}


def optimize(command: str, parsed: ParsedFlags) -> OliveReport:
    """Write a folder for ORT-GenAI to `--output_path`: one of auto-opt, optimize, quantize.

    Raises BadFlag, NotFound, BadData, AlreadyThere, CannotExport before anything is left.
    """
    from burnish.export.formats.registry import write_export

    notes = [*parsed.notes, *([_DEPRECATED[command]] if command in _DEPRECATED else [])]
    precision = parsed.values.get("--precision")
    if precision is None:
        precision = _PRECISIONS[command]
        notes.append(f"--precision is {precision} unless told otherwise, as in Olive.")
    quant = _block_format(precision, parsed.values.get("--block_size"), notes)
    output = _output_folder(parsed, "optimized-model")
    with open_model(
        parsed.values.get("--model_name_or_path"), parsed.values.get("--adapter_path")
    ) as one:
        written = write_export(output, one, "onnx", quant)
    size = sum(file.stat().st_size for file in written.path.iterdir())
    notes.append(
        "The folder was written, not asked: `burnish export RUN --to onnx` asks it the test split."
    )
    return OliveReport(command, output, tuple(notes), {"precision": quant, "size_bytes": size})


def _block_format(precision: str, size: str | None, notes: list[str]) -> str:
    """The number format with blocks of that size; 4 bits have blocks of 32 unless told otherwise,
    where Olive has 128. Raises BadFlag for 8 bits in other blocks."""
    if precision in ("int4", "uint4"):
        if size is None:
            notes.append(f"{precision} is written in blocks of 32 unless --block_size says so.")
        return precision if size in (None, "32") else f"{precision}_{size}"
    if precision == "int8" and size not in (None, "32"):
        raise BadFlag("--block_size: int8 is written in blocks of 32.", "Leave it out.")
    return precision


def extract_adapters(command: str, parsed: ParsedFlags) -> OliveReport:
    """Copy the adapter of a run, or of a folder of `finetune`, to `--output_path`, in PEFT's files.

    Raises NotFound, AlreadyThere, CannotExport.
    """
    from burnish.export.formats.registry import write_export

    output = _output_folder(parsed, "extracted-adapter")
    artifact = find_trained(_require_flag(parsed, "--model_name_or_path"))
    write_export(output, artifact, "adapter", "as trained")
    return OliveReport(command, output, parsed.notes, {"base": artifact.base})


def generate_adapter(command: str, parsed: ParsedFlags) -> OliveReport:
    """Write one base and several adapters as GGUF files that llama.cpp switches a request.

    Raises NotFound, BadData if the adapters' bases differ, AlreadyThere, CannotExport.
    """
    from burnish.export.formats.gguf_lora import write_multi_lora_gguf

    names = [name for name in _require_flag(parsed, "--adapter_paths").split(",") if name]
    output = _output_folder(parsed, "multi-adapter")
    quant = parsed.values.get("--precision", "q8_0")
    adapters = {Path(name).name: find_trained(name) for name in names}
    with (
        open_model(_require_flag(parsed, "--base_model_path"), None) as base,
        atomic_folder(output) as draft,
    ):
        files = write_multi_lora_gguf(draft, base, adapters, quant)
        write_json(draft / "adapters.json", files)
    loras = " ".join(f"--lora {output / file}" for file in files["adapters"].values())
    return OliveReport(
        command, output, parsed.notes, files,
        next=f"llama-server -m {output / files['base']} {loras}",
    )  # fmt: skip


def _output_folder(parsed: ParsedFlags, usual: str) -> Path:
    return Path(parsed.values.get("--output_path", usual)).absolute()


def _require_flag(parsed: ParsedFlags, flag: str) -> str:
    if flag not in parsed.values:
        raise BadFlag(f"{flag} is missing.", f"Add {flag} VALUE.")
    value: Any = parsed.values[flag]
    return str(value)
