"""Types that the requests and responses of several endpoints share."""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from fastapi import Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

Text = Annotated[str, Field(max_length=1_000_000)]


#: Entries of any object whose keys the client chooses.
MAX_ENTRIES = 10_000


def _limit_entries(value: object) -> object:
    """Raises ValueError for an object of too many entries, before each is validated."""
    if isinstance(value, dict) and len(value) > MAX_ENTRIES:
        raise ValueError(f"it has {len(value)} entries; at most {MAX_ENTRIES} are allowed")
    return value


def _bound_faults(schema: Any) -> None:
    """Let every list of a schema end at its first fault, and limit the entries of objects."""
    if isinstance(schema, list | tuple):
        for part in schema:
            _bound_faults(part)
    if not isinstance(schema, dict) or _is_bounded(schema):
        return
    for part in list(schema.values()):
        _bound_faults(part)
    if schema.get("type") == "list":
        schema["fail_fast"] = True
    if schema.get("type") == "dict":
        inner = dict(schema)
        schema.clear()
        schema.update(core_schema.no_info_before_validator_function(_limit_entries, inner))


def _is_bounded(schema: dict[str, Any]) -> bool:
    """Return whether a schema has been bounded, as part of another record."""
    function = schema.get("function")
    return isinstance(function, dict) and function.get("function") is _limit_entries


class ApiModel(BaseModel):
    """A record of a request: strict about types, silent about unknown fields.

    A list ends at its first fault: each fault is a record with what the client sent.
    """

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return the schema of the record, of which a bounded number of faults is reported."""
        schema = handler(source)
        _bound_faults(schema)
        return schema


class StrictApiModel(ApiModel):
    """A record of a request that rejects unknown fields: ignoring one would break a promise."""

    model_config = ConfigDict(extra="forbid")


class ApiObject(BaseModel):
    """A record of a response. Each field is a key of the JSON, `null` where it is None."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


def limit_total_length(limit: int) -> AfterValidator:
    """Return the validator of texts that cost as much as they have characters together."""

    def check(texts: list[str]) -> list[str]:
        if (total := sum(map(len, texts))) > limit:
            raise ValueError(f"the texts have {total} characters; at most {limit} are allowed")
        return texts

    return AfterValidator(check)


def _is_none(value: object) -> bool:
    return value is None


T = TypeVar("T")

#: A field of a response that is left out of the JSON where it is None.
OmittedIfNone = Annotated[T | None, Field(exclude_if=_is_none)]


class IdentifiedObject(ApiObject):
    """A record of a response that can be the cursor of a list."""

    id: str


ObjectT = TypeVar("ObjectT", bound=IdentifiedObject)
RowT = TypeVar("RowT")


class ListPage(ApiObject, Generic[ObjectT]):
    """One page of a list; clients ask for the next one with `after=last_id`."""

    object: Literal["list"] = "list"
    data: list[ObjectT]
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, rows: Iterable[RowT], has_more: bool, to_object: Callable[[RowT], ObjectT]) -> Self:
        """Build the page of `rows`."""
        data = [to_object(row) for row in rows]
        return cls(
            data=data,
            has_more=has_more,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
        )


class DeletedObject(ApiObject):
    """The response to a DELETE request."""

    id: str
    object: Literal[
        "file",
        "model",
        "response.deleted",
        "vector_store.deleted",
        "vector_store.file.deleted",
    ]
    deleted: Literal[True] = True


def storable_text(value: str) -> str:
    """Return the text unchanged. Raises ValueError for text that a database cannot hold."""
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


#: What a client may upload a file for.
UploadPurpose = Literal["fine-tune", "batch", "assistants", "vision", "user_data", "evals"]


def binary_content(media_type: str = "application/octet-stream") -> dict[str, Any]:
    """Return the OpenAPI description of a download, for `responses={200: ...}` of a route."""
    return {"content": {media_type: {"schema": {"type": "string", "format": "binary"}}}}
