"""The sections of a recipe: closed, frozen records whose field descriptions are the only copy.

The command line's help, the published JSON Schema and the docs table all print these texts.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from burnish.core.section import Paths, Section, as_tuple, kind_or
from burnish.core.teaching import Distillation


class Task(Section):
    """What the model is for."""

    kind: Literal["auto", "classification", "extraction", "qa", "generation"] = Field(
        "auto", description="What the answers are; `auto` infers it from the training rows."
    )
    prompt: str | None = Field(
        None, description="System message put before every row that has none; none if empty."
    )
    labels: tuple[str, ...] = Field(
        (), description="The allowed labels of a classification; taken from the rows if empty."
    )


class Model(Section):
    """The base model."""

    name: str = Field(
        "smollm2-135m-instruct",
        description="A name of the catalogue, a hub id (owner/name), or a local folder.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Number format of the weights in training; `auto` asks the hardware."
    )


class Columns(Section):
    """Which column or key of the data holds what, where it isn't the usual name."""

    prompt: str | None = Field(None, description="What the user says.")
    completion: str | None = Field(None, description="The answer to learn.")
    chosen: str | None = Field(None, description="The preferred one of two answers.")
    rejected: str | None = Field(None, description="The other one of two answers.")
    label: str | None = Field(None, description="The class of the row.")
    context: str | None = Field(None, description="A passage put before the prompt.")
    system: str | None = Field(None, description="The system message.")
    text: str | None = Field(None, description="Plain text without an answer.")


class Data(Section):
    """Where the rows are and how they are split."""

    train: Paths = Field((), description="Files to learn from.")
    validation: Paths = Field((), description="Files to choose the checkpoint by.")
    test: Paths = Field((), description="Files to measure on; frozen at the first run.")
    format: Literal[
        "auto", "chat", "openai_preference", "preference", "unpaired_preference", "sharegpt",
        "labelled", "pairs", "alpaca", "prompts", "text",
    ] = Field("auto", description="Shape of the rows; `auto` looks at their keys.")  # fmt: skip
    columns: Columns = Field(Columns(), description="Names of the columns that hold what.")
    group: str | None = Field(
        None, description="Column whose equal values must not be torn over splits (a customer)."
    )
    validation_share: float = Field(
        0.1, ge=0, lt=1, description="Share of the rows for validation if no file is given."
    )
    test_share: float = Field(
        0.2, ge=0, lt=1, description="Share of the rows for the test split if no file is given."
    )
    near_duplicate: float = Field(
        0.8, gt=0, le=1, description="Jaccard similarity from which two rows are near duplicates."
    )
    max_rows: int | None = Field(
        None, ge=1, description="Use at most this many training rows, drawn by `seed`."
    )
    seed: int = Field(0, ge=0, description="Seed of the splits.")


class Sft(Section):
    """Supervised fine-tuning: cross-entropy on the assistant turns only."""

    kind: Literal["sft"] = "sft"


class Dpo(Section):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290): pairs of answers."""

    kind: Literal["dpo"] = "dpo"
    loss: Literal["sigmoid", "ipo", "hinge"] = Field(
        "sigmoid",
        description="`sigmoid` as in the paper; `ipo` holds back where all raters agree (Azar et "
        "al. 2023, arXiv:2310.12036); `hinge` stops at a margin (SLiC, arXiv:2305.10425).",
    )
    beta: float = Field(
        0.1, gt=0, description="How strongly the model is held to where it began; lower moves more."
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="Share of the pairs that are taken to be the wrong way round (`sigmoid` only).",
    )

    @model_validator(mode="after")
    def _smooths_only_the_sigmoid(self) -> "Dpo":
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError("label_smoothing is for loss sigmoid")
        return self


class Orpo(Section):
    """Odds-ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691): no reference."""

    kind: Literal["orpo"] = "orpo"
    beta: float = Field(
        0.1, gt=0, description="Weight of the odds ratio beside the loss of the preferred answer."
    )


class Simpo(Section):
    """Simple preference optimisation (Meng et al. 2024, arXiv:2405.14734): no reference."""

    kind: Literal["simpo"] = "simpo"
    beta: float = Field(2.0, gt=0, description="Scale of the log-probability of a token.")
    gamma: float = Field(1.0, ge=0, description="Margin by which the preferred answer is to win.")


class Kto(Section):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306): marked answers."""

    kind: Literal["kto"] = "kto"
    beta: float = Field(
        0.1, gt=0, description="How strongly the model is held to where it began; lower moves more."
    )
    desirable_weight: float = Field(1.0, gt=0, description="Weight of a desirable answer's loss.")
    undesirable_weight: float = Field(
        1.0, gt=0, description="Weight of an undesirable answer's loss."
    )


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
    ranks: dict[str, Annotated[int, Field(ge=1)]] = Field(
        {}, description="Other ranks for some layers, by the end of their names: `{q_proj: 4}`."
    )
    rslora: bool = Field(
        False, description="Scale by alpha / sqrt(rank) (Kalajdzievski 2023, arXiv:2312.03732)."
    )
    start: str | None = Field(
        None, description="A run of the same base whose adapter is trained further."
    )


class Lora(LowRank):
    """Low-rank adapters on frozen weights (Hu et al. 2021, arXiv:2106.09685)."""

    kind: Literal["lora"] = "lora"


class Dora(LowRank):
    """LoRA that learns length and direction of the weights apart (Liu et al. 2024,
    arXiv:2402.09353)."""

    kind: Literal["dora"] = "dora"


class Qlora(LowRank):
    """LoRA on frozen weights of 4 bits (Dettmers et al. 2023, arXiv:2305.14314): NormalFloat,
    blocks of 64. A quarter of the memory for the weights, and slower."""

    kind: Literal["qlora"] = "qlora"
    double_quant: bool = Field(True, description="Quantise the blocks' scales as well.")


class Ia3(Section):
    """A learnt factor for each key, value and inner feed-forward activation (Liu et al. 2022,
    arXiv:2205.05638): very few weights, which want a high learning rate."""

    kind: Literal["ia3"] = "ia3"


class Train(Section):
    """How the weights move."""

    objective: Annotated[
        Annotated[Sft | Dpo | Orpo | Simpo | Kto | Distillation, Field(discriminator="kind")],
        kind_or("sft"),
    ] = Field(Sft(), description="What is learnt from a row.")
    method: Annotated[
        Annotated[Lora | Dora | Qlora | Ia3 | Full, Field(discriminator="kind")], kind_or("lora")
    ] = Field(Lora(), description="Which weights move.")
    learning_rate: float = Field(5e-4, gt=0, description="Peak learning rate of AdamW.")
    epochs: float = Field(3, gt=0, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many optimizer steps.")
    batch_size: int = Field(16, ge=1, description="Rows per optimizer step.")
    micro_batch_tokens: int = Field(
        2048, ge=16, description="Tokens per forward pass; bounds the peak memory."
    )
    max_length: int = Field(1024, ge=8, description="Longest row, in tokens.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate falls after the warm-up."
    )
    warmup_share: float = Field(0.03, ge=0, le=1, description="Share of the steps to warm up in.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay of AdamW.")
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
    threads: int | None = Field(None, ge=1, description="CPU threads; all cores if empty.")
    seed: int = Field(0, ge=0, description="Seed of initial adapter weights and row order.")


class Room(Section):
    """The numbers that a search may choose from; whole ones if both ends are."""

    low: int | float = Field(description="The smallest value.")
    high: int | float = Field(description="The largest value.")
    log: bool = Field(False, description="Draw the value's logarithm evenly.")

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)


class Search(Section):
    """Which settings `burnish train --search` tries."""

    trials: int = Field(20, ge=1, description="Settings to try.")
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="How settings are chosen: by what earlier ones gave, or at random."
    )
    prune: bool = Field(
        True, description="Give up a trial whose validation loss falls behind the others' median."
    )
    seeds: int = Field(3, ge=1, description="Trainings of the best settings, for the spread.")
    seed: int = Field(0, ge=0, description="Seed of the sampler.")
    space: dict[str, Room | tuple[str | int | float | bool, ...]] = Field(
        {
            "train.learning_rate": Room(low=1e-5, high=2e-3, log=True),
            "train.method.rank": (8, 16, 32, 64),
            "train.batch_size": (8, 16, 32),
        },
        description="Fields of the recipe, each with a range or a list of values.",
    )


class Evaluate(Section):
    """How answers are scored."""

    metric: Literal[
        "auto", "accuracy", "exact_match", "token_f1", "field_f1", "rouge_l", "bleu", "chrf"
    ] = Field("auto", description="The score that decides; `auto` takes the task's own.")
    batch_size: int = Field(16, ge=1, description="Prompts answered at once.")
    max_new_tokens: int | None = Field(
        None, ge=1, description="Longest answer; taken from the training answers if empty."
    )
    max_rows: int | None = Field(
        None,
        ge=1,
        description="Measure on this many test rows only, drawn by `seed` (a smoke run).",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of the intervals.")
    seed: int = Field(0, ge=0, description="Seed of the bootstrap and of `max_rows`.")


class Rag(Section):
    """Documents whose passages are put before the question in the retrieval routes."""

    documents: Paths = Field((), description="Folders and files that hold the facts.")
    embedder: str = Field(
        "all-minilm-l6-v2", description="The embedding model: a name of the catalogue or a folder."
    )
    chunk_tokens: int = Field(
        200, ge=16, description="Longest passage, in tokens of the embedder (it reads 256)."
    )
    k: int = Field(5, ge=1, description="Passages put before a question, if they fit.")
    gold_share: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Share of the training rows that keep the passages that hold the answer.",
    )


class Compare(Section):
    """Which routes are measured and when one is better."""

    routes: tuple[
        Literal["base", "few_shot", "retrieval", "fine_tuned", "retrieval_fine_tuned"], ...
    ] = Field(
        ("base", "few_shot", "fine_tuned"),
        description="The routes to measure; those with retrieval need `rag.documents`.",
    )
    shots: int = Field(8, ge=1, description="Examples in the few-shot prompt, if they fit.")
    alpha: float = Field(
        0.05, gt=0, lt=0.5, description="Chance of shipping a fine-tune that is no better."
    )
    power: float = Field(
        0.8, gt=0.5, lt=1, description="Chance of seeing a real difference, for the rows advised."
    )
    least_gain: float = Field(
        0.02, ge=0, lt=1, description="Smallest gain in the metric that is worth a fine-tune."
    )
    forgetting: bool = Field(
        True, description="Ask a small general set before and after, to see what was lost."
    )
    price_per_hour: float = Field(
        0.10, ge=0, description="Price of an hour of this machine, for the cost per request."
    )
    currency: str = Field("USD", description="Currency of `price_per_hour`.")


class Serve(Section):
    """The HTTP server."""

    host: str = Field("127.0.0.1", description="Address to listen on; loopback by default.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    max_batch: int = Field(16, ge=1, description="Requests answered at once.")
    max_new_tokens: int = Field(
        512, ge=1, description="Longest answer if the request names no length."
    )
    store: str = Field(
        "",
        description="Database of files and jobs (postgresql+psycopg://...); empty: SQLite in the "
        "workspace.",
    )
