"""Vector stores as OpenAI clients write and read them."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from burnish.serve.protocol import Id, Labels, StrictApiModel, Text, storable_text
from burnish.serve.store.schema import StoredObject

AttributeValue = Annotated[str, Field(max_length=512), AfterValidator(storable_text)] | bool | float
Attributes = Annotated[
    dict[Annotated[str, Field(max_length=64), AfterValidator(storable_text)], AttributeValue]
    | None,
    Field(max_length=16),
]
Title = Annotated[str, Field(max_length=256), AfterValidator(storable_text)]


class AutoChunking(StrictApiModel):
    """We choose how files are cut."""

    type: Literal["auto"]


class CreateVectorStore(StrictApiModel):
    """POST /vector_stores."""

    name: Title | None = None
    description: Title | None = None
    file_ids: list[Id] = Field([], max_length=500)
    chunking_strategy: AutoChunking | None = None
    metadata: Labels = None
    expires_after: None = Field(None, description="Vector stores do not expire here.")


class UpdateVectorStore(StrictApiModel):
    """POST /vector_stores/{id}."""

    name: Title | None = None
    metadata: Labels = None
    expires_after: None = None


class AttachFile(StrictApiModel):
    """POST /vector_stores/{id}/files."""

    file_id: Id
    attributes: Attributes = None
    chunking_strategy: AutoChunking | None = None


class AttachFiles(StrictApiModel):
    """POST /vector_stores/{id}/file_batches."""

    file_ids: list[Id] = Field(min_length=1, max_length=500)
    attributes: Attributes = None
    chunking_strategy: AutoChunking | None = None


class UpdateFile(StrictApiModel):
    """POST /vector_stores/{id}/files/{file_id}."""

    attributes: Attributes = None


class ComparisonFilter(StrictApiModel):
    """A comparison of one attribute."""

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    key: Text
    value: AttributeValue | list[AttributeValue]

    def matches(self, attributes: Mapping[str, Any]) -> bool:
        """Whether a file with these attributes is meant; one without the attribute never is."""
        try:
            own = attributes[self.key]
            return bool(_OPERATORS[self.type](own, self.value))
        except (KeyError, TypeError):
            return False


class CompoundFilter(StrictApiModel):
    """Comparisons that must all hold, or of which one must."""

    type: Literal["and", "or"]
    filters: list["ComparisonFilter | CompoundFilter"] = Field(min_length=1, max_length=32)

    def matches(self, attributes: Mapping[str, Any]) -> bool:
        """Whether a file with these attributes is meant."""
        joined = all if self.type == "and" else any
        return joined(one.matches(attributes) for one in self.filters)


class RankingOptions(StrictApiModel):
    """From which score on a passage is shown."""

    ranker: Literal["auto", "none", "default-2024-11-15"] | None = None
    score_threshold: float | None = Field(None, ge=0, le=1)


class SearchVectorStore(StrictApiModel):
    """POST /vector_stores/{id}/search."""

    query: Text | Annotated[list[Text], Field(min_length=1, max_length=16)]
    max_num_results: int = Field(10, ge=1, le=50)
    filters: ComparisonFilter | CompoundFilter | None = None
    ranking_options: RankingOptions | None = None
    rewrite_query: Literal[False] | None = None

    @property
    def queries(self) -> Sequence[str]:
        """The questions."""
        return [self.query] if isinstance(self.query, str) else self.query


_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "in": lambda own, wanted: own in wanted,
    "nin": lambda own, wanted: own not in wanted,
}
_STATES = ("in_progress", "completed", "failed", "cancelled")


def count_by_status(files: Sequence[StoredObject]) -> dict[str, int]:
    """How many files are in which state."""
    each = {state: sum(file.status == state for file in files) for state in _STATES}
    return {**each, "total": len(files)}


def vector_store_body(
    store: StoredObject, files: Sequence[StoredObject], size: int
) -> dict[str, Any]:
    """A vector store as clients read it."""
    counted = count_by_status(files)
    return {
        "id": store.id,
        "object": "vector_store",
        "created_at": store.created_at,
        "name": store.body["name"],
        "metadata": store.body["metadata"],
        "status": "in_progress" if counted["in_progress"] else "completed",
        "file_counts": counted,
        "usage_bytes": size,
        "last_active_at": store.body["last_active_at"],
        "expires_after": None,
        "expires_at": None,
    }


def store_file_body(file: StoredObject) -> dict[str, Any]:
    """A file of a vector store as clients read it."""
    return {
        "id": file.body["file_id"],
        "object": "vector_store.file",
        "created_at": file.created_at,
        "vector_store_id": file.parent,
        "status": file.status,
        "last_error": file.body.get("last_error"),
        "usage_bytes": file.body.get("usage_bytes", 0),
        "attributes": file.body["attributes"],
        "chunking_strategy": {"type": "other"},
    }


def file_batch_body(batch: StoredObject, files: Sequence[StoredObject]) -> dict[str, Any]:
    """A batch of files as clients read it."""
    counted = count_by_status(files)
    ended = "cancelled" if counted["cancelled"] else "completed"
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": batch.created_at,
        "vector_store_id": batch.parent,
        "status": "in_progress" if counted["in_progress"] else ended,
        "file_counts": counted,
    }
