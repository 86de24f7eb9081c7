"""Types that requests and answers of several endpoints share."""

from typing import Annotated

from fastapi import Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Text = Annotated[str, Field(max_length=1_000_000)]


class ApiModel(BaseModel):
    """A record of a request: strict about types, silent about unknown fields."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class StrictApiModel(ApiModel):
    """A part of a request of which what is unknown here would be promised and not done."""

    model_config = ConfigDict(extra="forbid")


def storable_text(value: str) -> str:
    """Raises ValueError for text that a database cannot hold."""
    if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError("it holds a character that cannot be stored")
    return value


Labels = Annotated[
    dict[
        Annotated[str, Field(max_length=64), AfterValidator(storable_text)],
        Annotated[str, Field(max_length=512), AfterValidator(storable_text)],
    ]
    | None,
    Field(max_length=16),
]


Id = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w.-]+$")]


PageLimit = Annotated[int, Query(ge=1, le=10_000)]
