"""Training methods: which weights move. Names and defaults follow PEFT."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from burnish.core.recipe.section import Section, as_tuple


class Full(Section):
    """All weights move."""

    kind: Literal["full"] = "full"


class LowRank(Section):
    """What all low-rank methods have in common."""

    rank: int = Field(16, ge=1, description="Width of the update; higher learns and costs more.")
    alpha: float = Field(32, gt=0, description="The update is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of the adapter's inputs dropped.")
    targets: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = Field(
        ("all-linear",), description="Layers that get an adapter: `all-linear`, or their names."
    )
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {}, description="Other ranks for some layers, by the end of their names: `{q_proj: 4}`."
    )
    rslora: bool = Field(
        False, description="Scale by alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732)."
    )
    init_from: str | None = Field(
        None, description="A run of the same base whose adapter is trained further."
    )


class Lora(LowRank):
    """Low-rank adapters on frozen weights (Hu et al. 2021, arXiv:2106.09685)."""

    kind: Literal["lora"] = "lora"
    init: Literal["zero", "pissa"] = Field(
        "zero",
        description="`zero`: as the base; `pissa`: from the weights' largest singular parts, kept "
        "as an adapter of twice the rank (Meng et al. 2024, arXiv:2404.02948).",
    )

    stack_on: str | None = Field(
        None,
        description="A run whose adapter is put into the frozen weights before training; what is "
        "kept is both as one adapter, whose rank is their sum.",
    )

    @model_validator(mode="after")
    def _check_start(self) -> "Lora":
        if self.stack_on and (self.init_from or self.init != "zero"):
            raise ValueError("stack_on goes without init_from, and with init zero")
        if self.init == "pissa" and self.init_from:
            raise ValueError("init_from begins with another run's adapter, and init with its own")
        return self


class Dora(LowRank):
    """LoRA that learns length and direction of the weights apart (Liu et al. 2024,
    arXiv:2402.09353)."""

    kind: Literal["dora"] = "dora"


class Qlora(LowRank):
    """LoRA on frozen weights of 4 bits (Dettmers et al. 2023, arXiv:2305.14314): NormalFloat,
    blocks of 64. A quarter of the memory for the weights, and slower."""

    kind: Literal["qlora"] = "qlora"
    double_quant: bool = Field(True, description="Quantise the blocks' scales as well.")


class AutoMethod(LowRank):
    """What fits into this machine: `lora`; if need be with smaller micro-batches, with gradient
    checkpointing, or as `qlora`. The run's recipe has what was chosen."""

    kind: Literal["auto"] = "auto"


class Ia3(Section):
    """A learnt factor for each key, value and inner feed-forward activation (Liu et al. 2022,
    arXiv:2205.05638): very few weights, which want a high learning rate."""

    kind: Literal["ia3"] = "ia3"


class BottleneckMethod(Section):
    """Small networks behind the frozen layers (Houlsby et al. 2019, arXiv:1902.00751)."""

    kind: Literal["bottleneck"] = "bottleneck"
    size: int = Field(32, ge=1, description="Width of the networks; wider learns and costs more.")
    after: Literal["both", "mlp"] = Field(
        "both",
        description="`both`: after attention and MLP; `mlp`: after the MLP only (Pfeiffer et al. "
        "2021, arXiv:2005.00247).",
    )


class PromptTuning(Section):
    """Learnt embeddings of tokens before every prompt (Lester et al. 2021, arXiv:2104.08691)."""

    kind: Literal["prompt"] = "prompt"
    num_virtual_tokens: int = Field(
        20, ge=1, description="How many virtual tokens; they come on top of rows."
    )


class PrefixTuning(Section):
    """Learnt keys and values before every prompt, in every layer (Li & Liang 2021,
    arXiv:2101.00190)."""

    kind: Literal["prefix"] = "prefix"
    num_virtual_tokens: int = Field(
        20, ge=1, description="How many virtual tokens; they come on top of rows."
    )
