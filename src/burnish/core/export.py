"""The section `export` of a recipe."""

from typing import Literal

from pydantic import Field

from burnish.core.section import Section


class Export(Section):
    """What is shipped, and how much worse than the trained model it may answer."""

    to: Literal["merged", "adapter", "gguf", "gguf-lora"] = Field(
        "merged",
        description="`merged` is a Hugging Face folder without an adapter, `adapter` is PEFT's, "
        "`gguf` is one file for llama.cpp, Ollama and LM Studio, `gguf-lora` the base as such "
        "a file and the adapter as another.",
    )
    quant: Literal[
        "auto", "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_1", "q5_0", "q4_k_m", "q4_1",
        "q4_0",
    ] = Field(
        "auto", description="Number format of the weights; `auto`: bf16 merged, q8_0 as GGUF."
    )  # fmt: skip
    rows: int | None = Field(
        1000, ge=30, description="Test rows that the gate asks, drawn by a seed; all if empty."
    )
    points: float = Field(
        0.01, gt=0, lt=1, description="Loss of the metric that is still shippable, absolute."
    )
    relative: float = Field(
        0.02, gt=0, lt=1, description="The same as a share of the trained model's score."
    )
    confidence: float = Field(
        0.95, gt=0.5, lt=1, description="How sure it must be that the loss is smaller (one side)."
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of llama.cpp; all cores if empty."
    )
