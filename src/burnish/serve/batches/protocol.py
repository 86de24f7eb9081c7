"""Batches as OpenAI clients write and read them."""

from typing import Any, Literal

from typing_extensions import TypedDict

from burnish.serve.protocol import ApiObject, Id, IdentifiedObject, Labels, StrictApiModel
from burnish.serve.store.schema import StoredObject


class CreateBatch(StrictApiModel):
    """POST /batches."""

    input_file_id: Id
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: Labels = None


class RequestCounts(ApiObject):
    """Requests of a batch: all, those answered, those that failed."""

    total: int
    completed: int
    failed: int


class BatchError(ApiObject):
    """What is wrong with a line of the input file; lines count from 1."""

    code: str
    message: str
    line: int | None
    param: str | None = None


class BatchErrorList(ApiObject):
    """The errors of a batch that failed."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class BatchObject(IdentifiedObject):
    """A batch; times are Unix seconds, None until the batch has had the status."""

    object: Literal["batch"] = "batch"
    created_at: int
    status: str
    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None
    expires_at: int
    request_counts: RequestCounts
    output_file_id: str | None
    error_file_id: str | None
    errors: BatchErrorList | None
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None


class LineResponse(TypedDict):
    """The response to a line: the status and the body that a client would get."""

    request_id: str
    status_code: int
    body: Any


class LineError(TypedDict):
    """Why a line was not sent."""

    code: str
    message: str


class BatchLineResult(TypedDict):
    """A line of the output file or the error file; `custom_id` is the client's name for it."""

    id: str
    custom_id: str
    response: LineResponse | None
    error: LineError | None


def batch_object(batch: StoredObject) -> BatchObject:
    """Describe a batch."""
    body = batch.body
    errors = body.get("errors")
    return BatchObject(
        id=batch.id,
        created_at=batch.created_at,
        status=batch.status,
        input_file_id=body["input_file_id"],
        endpoint=body["endpoint"],
        completion_window=body["completion_window"],
        metadata=body["metadata"],
        expires_at=body["expires_at"],
        request_counts=RequestCounts(**body["request_counts"]),
        output_file_id=body.get("output_file_id"),
        error_file_id=body.get("error_file_id"),
        errors=BatchErrorList(**errors) if errors else None,
        in_progress_at=body.get("in_progress_at"),
        finalizing_at=body.get("finalizing_at"),
        completed_at=body.get("completed_at"),
        failed_at=body.get("failed_at"),
        expired_at=body.get("expired_at"),
        cancelling_at=body.get("cancelling_at"),
        cancelled_at=body.get("cancelled_at"),
    )
