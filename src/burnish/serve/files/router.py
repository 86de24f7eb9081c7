"""Routes of /files."""

import os
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, UploadFile
from fastapi.responses import FileResponse

from burnish.serve.errors import RequestError
from burnish.serve.protocol import PageLimit
from burnish.serve.store.files import PURPOSES, StoredFileNotFound, file_body
from burnish.serve.store.jobs import make_storable
from burnish.serve.store.pagination import Order, page_body
from burnish.serve.store.workspace import Workspace

UploadPurpose = Literal["fine-tune", "batch", "assistants", "vision", "user_data", "evals"]


def file_routes(workspace: Workspace) -> APIRouter:
    """Upload, list, read and delete files."""
    router, files = APIRouter(), workspace.files

    @router.post("/files", summary="Upload a file")
    def create_file(
        file: UploadFile,
        purpose: Annotated[UploadPurpose, Form()],
        expires: Annotated[str | None, Form(alias="expires_after[seconds]")] = None,
    ) -> dict[str, Any]:
        if expires is not None:
            raise RequestError("Files do not expire here: delete them.", "expires_after")
        name = make_storable(os.path.basename(file.filename or "upload"))[:255]
        return file_body(files.add(file.file, name, purpose))

    @router.get("/files", summary="The files, newest first")
    def list_files(
        purpose: str | None = None,
        after: str | None = None,
        limit: PageLimit = 10_000,
        order: Order = "desc",
    ) -> dict[str, Any]:
        if purpose is not None and purpose not in PURPOSES:
            raise RequestError(f"`{purpose}` is no purpose of a file.", "purpose", "invalid_value")
        return page_body(*files.page(purpose, after, limit, order), file_body)

    @router.get("/files/{name}", summary="One file")
    def get_file(name: str) -> dict[str, Any]:
        return file_body(files.find(name))

    @router.get("/files/{name}/content", summary="The bytes of a file")
    def get_file_content(name: str) -> FileResponse:
        file = files.find(name)
        path = files.path(file)
        if not path.exists():
            raise StoredFileNotFound(name)
        return FileResponse(path, media_type="application/octet-stream", filename=file.filename)

    @router.delete("/files/{name}", summary="Delete a file")
    def delete_file(name: str) -> dict[str, Any]:
        files.delete(name)
        return {"id": name, "object": "file", "deleted": True}

    return router
