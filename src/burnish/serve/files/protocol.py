"""Files and uploads as OpenAI clients write and read them."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from burnish.serve.protocol import ApiModel, ApiObject, Id, IdentifiedObject, UploadPurpose
from burnish.serve.store.jobs import make_storable
from burnish.serve.store.schema import File, StoredObject

#: Bytes of a file that is uploaded in parts.
MAX_BYTES = 8 * 2**30


class CreateUpload(ApiModel):
    """POST /uploads."""

    bytes: int = Field(ge=1, le=MAX_BYTES)
    filename: Annotated[str, Field(min_length=1, max_length=255), AfterValidator(make_storable)]
    mime_type: Annotated[str, Field(max_length=255), AfterValidator(make_storable)]
    purpose: UploadPurpose
    expires_after: None = Field(None, description="Files do not expire here.")


class CompleteUpload(ApiModel):
    """POST /uploads/{id}/complete."""

    part_ids: list[Id] = Field(min_length=1, max_length=10_000)
    md5: Annotated[str, Field(max_length=64)] | None = None


class FileObject(IdentifiedObject):
    """An uploaded file or a result file."""

    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: None = None


class UploadObject(ApiObject):
    """An upload in parts; `file` once it is completed and while the file exists."""

    id: str
    object: Literal["upload"] = "upload"
    created_at: int
    bytes: int
    filename: str
    purpose: str
    expires_at: int
    status: str
    file: FileObject | None


class UploadPartObject(ApiObject):
    """A part of an upload."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


def file_object(file: File) -> FileObject:
    """Describe a file."""
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=file.created_at,
        filename=file.filename,
        purpose=file.purpose,
    )


def upload_object(upload: StoredObject, file: File | None) -> UploadObject:
    """Describe an upload and the file made from it."""
    return UploadObject(
        id=upload.id,
        created_at=upload.created_at,
        bytes=upload.body["bytes"],
        filename=upload.body["filename"],
        purpose=upload.body["purpose"],
        expires_at=upload.body["expires_at"],
        status=upload.status,
        file=file_object(file) if file else None,
    )


def upload_part_object(part: StoredObject) -> UploadPartObject:
    """Describe a part."""
    return UploadPartObject(
        id=part.id, created_at=part.created_at, upload_id=part.body["upload_id"]
    )
