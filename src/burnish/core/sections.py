"""The sections of a recipe: closed, frozen records whose field descriptions are the only copy.

The command line's help, the published JSON Schema and the docs table all print these texts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from burnish.core.judging import Judge
from burnish.core.section import ExecutorName, Paths, Section
from burnish.core.upstream import Upstream


class Task(Section):
    """What the model is for."""

    kind: Literal["auto", "classification", "extraction", "spans", "qa", "generation"] = Field(
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
    image: str | None = Field(
        None, description="The row's picture, or a list of them: file names, data URLs or bytes."
    )


class Data(Section):
    """Where the rows are and how they are split."""

    train: Paths = Field((), description="Files to learn from.")
    validation: Paths = Field((), description="Files to choose the checkpoint by.")
    test: Paths = Field((), description="Files to measure on; frozen at the first run.")
    format: Literal[
        "auto", "chat", "spans", "tagged", "openai_preference", "preference",
        "unpaired_preference", "sharegpt", "labelled", "pairs", "alpaca", "prompts", "text",
    ] = Field("auto", description="Shape of the rows; `auto` looks at their keys.")  # fmt: skip
    columns: Columns = Field(Columns(), description="Names of the columns that hold what.")
    images: Path | None = Field(
        None,
        description="Folder in which the names of pictures are looked up, and nowhere outside it; "
        "without it, rows bring their pictures as data URLs.",
    )
    group: str | None = Field(
        None,
        description="Column whose equal values must not be torn over splits (a customer), and "
        "count as one draw in intervals and tests.",
    )
    question_type: str | None = Field(
        None,
        description="Column that says what type a question is (fact, style): `compare` then shows "
        "each route's score by type.",
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


class Evaluate(Section):
    """How answers are scored."""

    metric: Literal[
        "auto", "accuracy", "exact_match", "token_f1", "field_f1", "span_f1", "rouge_l", "bleu",
        "chrf", "squad_exact_match", "squad_f1", "graded",
    ] = Field(
        "auto",
        description="The score that decides; `auto` takes the task's own, `graded` is the grade "
        "that `judge` gives.",
    )  # fmt: skip
    judge: Judge = Field(Judge(), description="The model that grades, for metric `graded`.")
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
    rerank: str = Field(
        "",
        description="A cross-encoder (a pulled model or a folder) that reads the best passages "
        "with the question and orders them anew; none if empty.",
    )
    rerank_top: int = Field(20, ge=1, description="How many of the best passages it reads.")
    gold_share: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Share of the training rows that keep the passages that hold the answer.",
    )


class Compare(Section):
    """Which routes are measured and when one is better."""

    routes: tuple[
        Literal[
            "base",
            "few_shot",
            "retrieval",
            "classifier",
            "encoder",
            "fine_tuned",
            "retrieval_fine_tuned",
            "teacher",
        ],
        ...,
    ] = Field(
        (),
        description="The routes to measure; empty: base, few_shot, fine_tuned and, for labels, "
        "classifier (if `rag.embedder` is here). `encoder`, for labels too, fine-tunes "
        "`rag.embedder` itself, in minutes. Those with retrieval need `rag.documents`; "
        "`teacher`, a ceiling that the verdict leaves out, needs `distil.teacher`.",
    )
    shots: int = Field(8, ge=1, description="Examples in the few-shot prompt, if they fit.")
    examples: Literal["drawn", "similar"] = Field(
        "drawn",
        description="The few-shot examples: `drawn` by seed, the same for all questions; `similar` "
        "takes those nearest to each question by `rag.embedder`.",
    )
    alpha: float = Field(
        0.05, gt=0, lt=0.5, description="Chance of shipping a fine-tune that is no better."
    )
    power: float = Field(
        0.8, gt=0.5, lt=1, description="Chance of seeing a real difference, for the rows advised."
    )
    least_gain: float = Field(
        0.02, ge=0, lt=1, description="Smallest gain in the metric that is worth a fine-tune."
    )
    seeds: int = Field(
        1,
        ge=1,
        le=20,
        description="Trainings of the judged route, with `train.seed` and the seeds after it; of "
        "more than one the interval of the gain includes their spread.",
    )
    stop_hopeless: bool = Field(
        True,
        description="From 1,024 test rows on: a route that isn't trained by gradient and does "
        "surely worse than another on 256 drawn questions isn't asked the rest.",
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
    prefix_mebibytes: int = Field(
        256,
        ge=0,
        description="Memory for beginnings that prompts share, such as a system prompt, so that "
        "they are read once; 0: none are kept.",
    )
    engine_slots: int = Field(
        4,
        ge=1,
        description="Requests that llama.cpp answers at once for an exported folder; each has a "
        "context of its own. ONNX and OpenVINO answer one after the other.",
    )
    engine_threads: int = Field(
        0, ge=0, description="CPU threads of an exported folder's engine; 0: as many as cores."
    )
    engine_context: int = Field(
        4096,
        ge=64,
        description="Tokens that a request to an exported folder and its answer may have together, "
        "if its model has as many.",
    )
    engine_cache: Literal["f16", "q8_0", "q4_0"] = Field(
        "f16", description="Type of llama.cpp's keys and values, for exported GGUF folders."
    )
    upstream: Mapping[str, Upstream] = Field(
        {},
        description="Models whose weights answer at another server (vLLM), by their names here.",
    )
    python_graders: bool = Field(
        False,
        description="Run `python` graders that requests bring, in a sandbox (Linux with "
        "bubblewrap); off: no request may run code.",
    )
    store: str = Field(
        "",
        description="Database of files and jobs (postgresql+psycopg://...); empty: SQLite in the "
        "workspace.",
    )
    executor: ExecutorName = Field(
        "",
        description="Where fine-tuning jobs are trained: `ray`, `ray://HOST:PORT`, or empty for "
        "this machine.",
    )
    executor_cpus: int | None = Field(
        None,
        ge=1,
        description="CPUs that a job takes of a node of the cluster; all of the smallest node if "
        "empty.",
    )
