"""The sections `task`, `model` and `data` of a recipe."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from burnish.core.recipe.section import Paths, Section


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
