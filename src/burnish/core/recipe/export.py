"""The section `export` of a recipe."""

from typing import Literal

from pydantic import Field

from burnish.core.recipe.section import Section
from burnish.core.units import Bytes, Seconds


class FormatSearch(Section):
    """What `burnish export --for-this-machine` tries, and what the machine allows."""

    formats: tuple[str, ...] = Field(
        (
            "gguf:q4_0", "gguf:q4_1", "gguf:q4_k_m", "gguf:q5_0", "gguf:q5_k_m", "gguf:q6_k",
            "gguf:q8_0", "gguf:f16", "onnx:int4", "onnx:int8", "openvino:int8", "openvino:int4",
            "merged:bf16",
        ),
        min_length=1,
        description="What is tried, as FORMAT:NUMBER FORMAT.",
    )  # fmt: skip
    threads: tuple[int, ...] = Field(
        (), description="CPU threads that are tried; half of the cores and all if empty."
    )
    caches: tuple[Literal["f16", "q8_0", "q4_0"], ...] = Field(
        ("f16",),
        min_length=1,
        description="Types of llama.cpp's keys and values that are tried with each gguf format; "
        "other engines have one.",
    )
    contexts: tuple[int, ...] = Field(
        (),
        description="Tokens of context that are tried with gguf, onnx and openvino: a longer one "
        "takes memory at once. If empty, what the longest question and its answer need.",
    )
    best: Literal["latency", "memory", "disk", "score"] = Field(
        "latency",
        description="What decides among those that keep the limits and still answer alike: p95 "
        "latency, memory of the server, bytes on disk, or the task's metric.",
    )
    latency_p50: Seconds | None = Field(
        None, description="Longest median answer that is allowed: `200ms`."
    )
    latency_p95: Seconds | None = Field(
        None, description="Longest 95th percentile of an answer that is allowed: `300ms`."
    )
    memory: Bytes | None = Field(None, description="Most memory that the server may take: `1GB`.")
    disk: Bytes | None = Field(None, description="Most bytes that the folder may have: `200MB`.")
    start_up: Seconds | None = Field(
        None, description="Longest that the server may take until it answers: `5s`."
    )
    first_rows: int = Field(
        32, ge=8, description="Questions of the first round; every further round asks as many more."
    )
    finalists: int = Field(
        3, ge=1, description="How many may come before the parity gate, at most."
    )


class Export(Section):
    """What is shipped, and how much worse than the trained model it may answer."""

    to: Literal["merged", "adapter", "gguf", "gguf-lora", "onnx", "openvino"] = Field(
        "merged",
        description="`merged` is a Hugging Face folder without an adapter, `adapter` is PEFT's, "
        "`gguf` is one file for llama.cpp, Ollama and LM Studio, `gguf-lora` the base as such "
        "a file and the adapter as another, `onnx` a folder for ORT-GenAI, `openvino` one for "
        "OpenVINO GenAI.",
    )
    quant: Literal[
        "auto", "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_1", "q5_0", "q4_k_m", "q4_1",
        "q4_0", "int8", "int4", "int4_16", "int4_64", "int4_128", "uint4", "uint4_16", "uint4_64",
        "uint4_128", "fp16", "fp32",
    ] = Field(
        "auto",
        description="Number format of the weights; `auto`: bf16 merged, q8_0 as GGUF, int4 as "
        "ONNX, int8 for OpenVINO. As ONNX, a number behind int4 is how many weights share a scale "
        "(32 if there is none), and uint4 isn't symmetric.",
    )  # fmt: skip
    importance: bool = Field(
        False,
        description="Let the rounding to less than 8 bits err least where the training rows need "
        "the weights (llama.cpp's imatrix); for gguf, gguf-lora and openvino.",
    )
    drop_layers: int = Field(
        0,
        ge=0,
        description="Leave out so many layers, those that change least what goes through them on "
        "training rows (ShortGPT, Men et al. 2024, arXiv:2403.03853); not for adapters.",
    )
    ready_for: tuple[Literal["foundry", "lmstudio", "mlflow", "vllm"], ...] = Field(
        (),
        description="Programs that the folder is made ready for: `foundry` (Foundry Local, of an "
        "ONNX folder), `lmstudio` (LM Studio, of GGUF), `mlflow` (of merged), `vllm` (of merged "
        "or adapter).",
    )
    rows: int | None = Field(
        1000, ge=30, description="Test rows that the gate asks, drawn by a seed; all if empty."
    )
    points: float = Field(
        0.01, gt=0, lt=1, description="Loss of the metric that is still shippable, absolute."
    )
    relative: float = Field(
        0.02, gt=0, lt=1, description="The same as a share of the trained model's score."
    )
    points_if_equal: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Loss that is still shippable where every answer is the same: n equal answers "
        "exclude a loss of more than 1 - 0.05^(1/n), which is 5 points at 59 and 1 point at 299.",
    )
    confidence: float = Field(
        0.95, gt=0.5, lt=1, description="How sure it must be that the loss is smaller (one side)."
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of the server; all cores if empty."
    )
    fit: FormatSearch = Field(
        FormatSearch(), description="The search for the best format on this machine."
    )
