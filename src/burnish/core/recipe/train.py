"""The section `train` of a recipe: what is learnt, which weights move, and how."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from burnish.core.recipe.methods import (
    AutoMethod,
    BottleneckMethod,
    Dora,
    Full,
    Ia3,
    Lora,
    PrefixTuning,
    PromptTuning,
    Qlora,
)
from burnish.core.recipe.objectives import (
    Classify,
    CustomLoss,
    Distillation,
    Dpo,
    Embed,
    Grpo,
    Kto,
    Orpo,
    RewardObjective,
    Seq2Seq,
    Sft,
    Simpo,
    TokenClassify,
)
from burnish.core.recipe.section import Section, kind_or
from burnish.core.recipe.support import ENCODING, conflicts


class Train(Section):
    """How the weights move."""

    objective: Annotated[
        Annotated[
            Sft
            | Dpo
            | Orpo
            | Simpo
            | Kto
            | Distillation
            | Grpo
            | CustomLoss
            | Classify
            | Embed
            | RewardObjective
            | TokenClassify
            | Seq2Seq,
            Field(discriminator="kind"),
        ],
        kind_or("sft"),
    ] = Field(Sft(), description="What is learnt from a row.")
    method: Annotated[
        Annotated[
            Lora
            | Dora
            | Qlora
            | AutoMethod
            | Ia3
            | BottleneckMethod
            | PromptTuning
            | PrefixTuning
            | Full,
            Field(discriminator="kind"),
        ],
        kind_or("lora"),
    ] = Field(Lora(), description="Which weights move.")
    learning_rate: float = Field(5e-4, gt=0, description="Peak learning rate of AdamW.")
    epochs: float = Field(3, gt=0, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many optimizer steps.")
    batch_size: int = Field(16, ge=1, description="Rows per optimizer step.")
    micro_batch_tokens: int = Field(
        2048, ge=16, description="Tokens per forward pass; bounds the peak memory."
    )
    max_length: int = Field(1024, ge=8, description="Longest row, in tokens.")
    group_by_prefix: bool = Field(
        False,
        description="Learn rows that begin alike (questions on one passage) in one step, where "
        "what they share is computed once: faster, and less shuffled.",
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate falls after the warm-up."
    )
    warmup_ratio: float = Field(0.03, ge=0, le=1, description="Share of the steps to warm up in.")
    weight_decay: float = Field(
        0.0, ge=0, description="Decoupled weight decay of AdamW; not of norms and biases."
    )
    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        "adamw",
        description="`adamw_8bit` keeps AdamW's moments in 8 bits (Dettmers et al. 2022, "
        "arXiv:2110.02861): 6 bytes less for each number that moves.",
    )
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    evaluate_every: int = Field(
        0, ge=0, description="Optimizer steps between validations; 0: twice an epoch."
    )
    patience: int = Field(
        3, ge=0, description="Stop after this many validations without a better one; 0: never."
    )
    checkpoint_every: int = Field(
        50, ge=1, description="Optimizer steps between checkpoints; one is made at the end too."
    )
    keep_checkpoints: int = Field(2, ge=1, description="How many checkpoints stay on the disk.")
    keep_every: int = Field(
        0, ge=0, description="Keep the last 3 checkpoints at multiples of this step too; 0: none."
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations twice to hold fewer: slower, less memory."
    )
    compile: bool = Field(
        False,
        description="Compile the layers of a language model (`torch.compile`): faster after about "
        "half a minute. Needs a C++ compiler; without one they are computed as they are.",
    )
    quantization_aware: Literal["q4_0"] | None = Field(
        None,
        description="Learn with the weights as this format of 4 bits rounds them, so that they "
        "lose less once they are exported in it. For method full, and lora without dropout.",
    )
    tracker: Literal["tensorboard", "mlflow", "wandb", "trackio"] | None = Field(
        None, description="Where the metrics go beside `metrics.jsonl`; its library is installed."
    )
    parallel: Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp"] = Field(
        "none",
        description="What several processes divide. `ddp`: the rows of each step; `zero1`: exact "
        "weights and moments too; `zero2`: gradients too; `zero3`, which is `fsdp` by another "
        "name: the model's weights too (ZeRO, Rajbhandari et al. 2020, arXiv:1910.02054).",
    )
    devices: int = Field(
        0, ge=0, description="Processes, each with a GPU or a share of the cores; 0: all GPUs."
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads of a process; all cores, or its share, if empty."
    )
    seed: int = Field(0, ge=0, description="Seed of initial adapter weights and row order.")

    @property
    def shards_weights(self) -> bool:
        """Whether each process holds a part of the model only."""
        return self.parallel in ("zero3", "fsdp")

    @property
    def is_encoding(self) -> bool:
        """Whether what is trained makes no text: labels, vectors, or what an answer is worth."""
        return self.objective.kind in ENCODING

    @property
    def needs_answers(self) -> bool:
        """Whether rows must have an answer; else the model draws its own."""
        return not isinstance(self.objective, Grpo)

    @property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """What is chosen on each axis of the support table."""
        method, objective = self.method, self.objective
        flags = {
            "gradient_checkpointing": self.gradient_checkpointing,
            "compile": self.compile,
            "group_by_prefix": self.group_by_prefix,
            "quantization_aware": self.quantization_aware,
            "adamw_8bit": self.optimizer == "adamw_8bit",
            "on_policy": getattr(objective, "on_policy", 0),
            "hidden_states": getattr(objective, "matches_internals", False),
            "dropout": getattr(method, "dropout", 0),
            "start": getattr(method, "init_from", None)
            or getattr(method, "stack_on", None)
            or getattr(method, "init", "zero") != "zero",
            "tracker": self.tracker,
        }
        return {
            "objective": (objective.kind,),
            "method": (method.kind,),
            "parallel": (self.parallel,),
            "flag": tuple(name for name, is_set in flags.items() if is_set),
        }

    @model_validator(mode="after")
    def _check_support(self) -> "Train":
        if self.parallel == "none" and self.devices > 1:
            raise ValueError("devices above 1 go with parallel: ddp, zero1, zero2 or zero3")
        for conflict in conflicts(self.choices):
            raise ValueError(f"{conflict.message} ({conflict.fix.rstrip('.').lower()})")
        return self
