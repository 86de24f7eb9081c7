"""Vector stores as OpenAI clients write and read them."""

import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from burnish.serve.protocol import (
    ApiObject,
    Id,
    IdentifiedObject,
    Labels,
    StrictApiModel,
    Text,
    storable_text,
)
from burnish.serve.store.schema import StoredObject

AttributeValue = Annotated[str, Field(max_length=512), AfterValidator(storable_text)] | bool | float
Attributes = Annotated[
    dict[Annotated[str, Field(max_length=64), AfterValidator(storable_text)], AttributeValue]
    | None,
    Field(max_length=16),
]
Title = Annotated[str, Field(max_length=256), AfterValidator(storable_text)]


class AutoChunking(StrictApiModel):
    """Default chunking of files."""

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
        """Return whether attributes match; without the attribute they never do."""
        try:
            return bool(_OPERATORS[self.type](attributes[self.key], self.value))
        except (KeyError, TypeError):
            return False


class CompoundFilter(StrictApiModel):
    """Filters that must all match (`and`), or of which one must (`or`)."""

    type: Literal["and", "or"]
    filters: list["ComparisonFilter | CompoundFilter"] = Field(min_length=1, max_length=32)

    def matches(self, attributes: Mapping[str, Any]) -> bool:
        """Return whether a file with these attributes matches."""
        combine = all if self.type == "and" else any
        return combine(one.matches(attributes) for one in self.filters)


class RankingOptions(StrictApiModel):
    """The least score of a passage in the results."""

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
        """The queries."""
        return [self.query] if isinstance(self.query, str) else self.query


_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "in": lambda value, allowed: value in allowed,
    "nin": lambda value, excluded: value not in excluded,
}


FileStatus = Literal["in_progress", "completed", "failed", "cancelled"]


class FileCounts(ApiObject):
    """Files by their status."""

    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class VectorStoreObject(IdentifiedObject):
    """A vector store."""

    object: Literal["vector_store"] = "vector_store"
    created_at: int
    name: str | None
    metadata: dict[str, str] | None
    status: Literal["in_progress", "completed"]
    file_counts: FileCounts
    usage_bytes: int
    last_active_at: int
    expires_after: None = None
    expires_at: None = None


class FileErrorObject(ApiObject):
    """Why a file could not be indexed."""

    code: str
    message: str


class ChunkingStrategyObject(ApiObject):
    """The chunking of a file: burnish's own."""

    type: Literal["other"] = "other"


class VectorStoreFileObject(IdentifiedObject):
    """A file of a vector store; its id is the file's."""

    object: Literal["vector_store.file"] = "vector_store.file"
    created_at: int
    vector_store_id: str
    status: FileStatus
    last_error: FileErrorObject | None
    usage_bytes: int
    attributes: dict[str, str | bool | float]
    chunking_strategy: ChunkingStrategyObject = ChunkingStrategyObject()


class FileBatchObject(ApiObject):
    """Files that were attached together."""

    id: str
    object: Literal["vector_store.files_batch"] = "vector_store.files_batch"
    created_at: int
    vector_store_id: str
    status: Literal["in_progress", "completed", "cancelled"]
    file_counts: FileCounts


class TextContent(TypedDict):
    """Text of a file or of a passage."""

    type: Literal["text"]
    text: str


class FileContentPage(ApiObject):
    """The text of a file."""

    object: Literal["vector_store.file_content.page"] = "vector_store.file_content.page"
    data: list[TextContent]
    has_more: Literal[False] = False
    next_page: None = None


class SearchResultObject(ApiObject):
    """A passage that was found, with its score from 0 to 1."""

    file_id: str
    filename: str
    score: float
    attributes: dict[str, str | bool | float]
    content: list[TextContent]


class SearchResultsPage(ApiObject):
    """The passages that match best, best first."""

    object: Literal["vector_store.search_results.page"] = "vector_store.search_results.page"
    search_query: list[str]
    data: list[SearchResultObject]
    has_more: Literal[False] = False
    next_page: None = None


def count_by_status(files: Sequence[StoredObject]) -> FileCounts:
    """Count files by their status."""
    counts = Counter(file.status for file in files)
    return FileCounts(
        in_progress=counts["in_progress"],
        completed=counts["completed"],
        failed=counts["failed"],
        cancelled=counts["cancelled"],
        total=len(files),
    )


def vector_store_object(
    store: StoredObject, files: Sequence[StoredObject], index_bytes: int
) -> VectorStoreObject:
    """Describe a vector store."""
    counts = count_by_status(files)
    return VectorStoreObject(
        id=store.id,
        created_at=store.created_at,
        name=store.body["name"],
        metadata=store.body["metadata"],
        status="in_progress" if counts.in_progress else "completed",
        file_counts=counts,
        usage_bytes=index_bytes,
        last_active_at=store.body["last_active_at"],
    )


def vector_store_file_object(file: StoredObject) -> VectorStoreFileObject:
    """Describe a file of a vector store."""
    error = file.body.get("last_error")
    return VectorStoreFileObject(
        id=file.body["file_id"],
        created_at=file.created_at,
        vector_store_id=str(file.parent),
        status=cast(FileStatus, file.status),
        last_error=FileErrorObject(**error) if error else None,
        usage_bytes=file.body.get("usage_bytes", 0),
        attributes=file.body["attributes"],
    )


def file_batch_object(batch: StoredObject, files: Sequence[StoredObject]) -> FileBatchObject:
    """Describe a batch of files."""
    counts = count_by_status(files)
    ended: Literal["completed", "cancelled"] = "cancelled" if counts.cancelled else "completed"
    return FileBatchObject(
        id=batch.id,
        created_at=batch.created_at,
        vector_store_id=str(batch.parent),
        status="in_progress" if counts.in_progress else ended,
        file_counts=counts,
    )
