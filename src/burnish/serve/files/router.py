"""Routes of /files and /uploads."""

import os
from typing import Annotated

from fastapi import APIRouter, Depends, Form, UploadFile
from fastapi.responses import FileResponse

from burnish.serve.errors import RequestError
from burnish.serve.files.protocol import (
    CompleteUpload,
    CreateUpload,
    FileObject,
    UploadObject,
    UploadPartObject,
    file_object,
    upload_part_object,
)
from burnish.serve.files.service import Uploads
from burnish.serve.protocol import (
    DeletedObject,
    ListPage,
    PageLimit,
    UploadPurpose,
    binary_content,
)
from burnish.serve.store.dependencies import CurrentWorkspace
from burnish.serve.store.files import PURPOSES, StoredFileNotFound
from burnish.serve.store.jobs import make_storable
from burnish.serve.store.pagination import Order

router = APIRouter()


@router.post("/files", summary="Upload a file")
def create_file(
    file: UploadFile,
    purpose: Annotated[UploadPurpose, Form()],
    workspace: CurrentWorkspace,
    expires: Annotated[str | None, Form(alias="expires_after[seconds]")] = None,
) -> FileObject:
    """Keep an uploaded file."""
    if expires is not None:
        raise RequestError("Files do not expire here: delete them.", "expires_after")
    name = make_storable(os.path.basename(file.filename or "upload"))[:255]
    return file_object(workspace.files.add(file.file, name, purpose))


@router.get("/files", summary="List the files, newest first")
def list_files(
    workspace: CurrentWorkspace,
    purpose: str | None = None,
    after: str | None = None,
    limit: PageLimit = 10_000,
    order: Order = "desc",
) -> ListPage[FileObject]:
    """List files, of one purpose or of all."""
    if purpose is not None and purpose not in PURPOSES:
        raise RequestError(
            f"`purpose` must be one of {', '.join(PURPOSES)}; got `{purpose}`.",
            "purpose",
            "invalid_value",
        )
    return ListPage[FileObject].of(*workspace.files.page(purpose, after, limit, order), file_object)


@router.get("/files/{name}", summary="Describe one file")
def get_file(name: str, workspace: CurrentWorkspace) -> FileObject:
    """Describe a file."""
    return file_object(workspace.files.find(name))


@router.get(
    "/files/{name}/content",
    summary="Download a file",
    response_class=FileResponse,
    responses={200: binary_content()},
)
def get_file_content(name: str, workspace: CurrentWorkspace) -> FileResponse:
    """Return the bytes of a file."""
    file = workspace.files.find(name)
    path = workspace.files.path(file)
    if not path.exists():
        raise StoredFileNotFound(name)
    return FileResponse(path, media_type="application/octet-stream", filename=file.filename)


@router.delete("/files/{name}", summary="Delete a file")
def delete_file(name: str, workspace: CurrentWorkspace) -> DeletedObject:
    """Delete a file that no unfinished job needs."""
    workspace.files.delete(name)
    return DeletedObject(id=name, object="file")


async def get_uploads(workspace: CurrentWorkspace) -> Uploads:
    """Return the uploads of the workspace."""
    return Uploads(workspace)


CurrentUploads = Annotated[Uploads, Depends(get_uploads)]


@router.post("/uploads", summary="Begin to upload a file in parts")
def create_upload(request: CreateUpload, uploads: CurrentUploads) -> UploadObject:
    """Begin an upload."""
    return uploads.describe(uploads.create(request))


@router.post("/uploads/{name}/parts", summary="Send a part")
def add_upload_part(name: str, data: UploadFile, uploads: CurrentUploads) -> UploadPartObject:
    """Keep a part of an upload."""
    return upload_part_object(uploads.add_part(name, data))


@router.post("/uploads/{name}/complete", summary="Join the parts into a file, in the given order")
def complete_upload(name: str, request: CompleteUpload, uploads: CurrentUploads) -> UploadObject:
    """Join the parts into a file."""
    return uploads.describe(uploads.complete(name, request))


@router.post("/uploads/{name}/cancel", summary="Discard the parts of an upload")
def cancel_upload(name: str, uploads: CurrentUploads) -> UploadObject:
    """Discard the parts of an upload."""
    return uploads.describe(uploads.end(name, "cancelled"))
