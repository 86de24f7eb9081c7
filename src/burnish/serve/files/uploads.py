"""Files that are sent in parts: `client.uploads`.

The parts lie in a folder of the upload until they are put together. The file's id comes from the
upload's, so that putting them together again after a crash makes the same file.
"""

import hashlib
import io
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Annotated, Any, Literal

from fastapi import APIRouter, UploadFile
from pydantic import AfterValidator, Field

from burnish.core.atomic import atomic_file
from burnish.serve.errors import RequestError
from burnish.serve.protocol import ApiModel, Id
from burnish.serve.store.files import StoredFileNotFound, file_body
from burnish.serve.store.jobs import make_storable
from burnish.serve.store.objects import object_body
from burnish.serve.store.quota import check_storage_quota
from burnish.serve.store.schema import File, StoredObject
from burnish.serve.store.workspace import Workspace

#: Seconds until an upload that nobody completes is thrown away, as in the hosted API.
_LIFETIME_SECONDS = 3600
MAX_BYTES = 8 * 2**30
MAX_PART_BYTES = 64 * 2**20
#: A client whose connection broke may send every part twice; more would go round the quota.
_MAX_SENT_RATIO = 2


class CreateUpload(ApiModel):
    """POST /uploads."""

    bytes: int = Field(ge=1, le=MAX_BYTES)
    filename: Annotated[str, Field(min_length=1, max_length=255), AfterValidator(make_storable)]
    mime_type: Annotated[str, Field(max_length=255), AfterValidator(make_storable)]
    purpose: Literal["fine-tune", "batch", "assistants", "vision", "user_data", "evals"]
    expires_after: None = Field(None, description="Files do not expire here.")


class CompleteUpload(ApiModel):
    """POST /uploads/{id}/complete."""

    part_ids: list[Id] = Field(min_length=1, max_length=10_000)
    md5: Annotated[str, Field(max_length=64)] | None = None


def upload_routes(workspace: Workspace) -> APIRouter:
    """Begin an upload, add parts, put them together or give up."""
    router, uploads = APIRouter(prefix="/uploads"), Uploads(workspace)

    @router.post("", summary="Begin to upload a file in parts")
    def create_upload(request: CreateUpload) -> dict[str, Any]:
        return uploads.body(uploads.create(request))

    @router.post("/{name}/parts", summary="Send a part")
    def add_part(name: str, data: UploadFile) -> dict[str, Any]:
        return object_body(uploads.add_part(name, data), "upload.part")

    @router.post("/{name}/complete", summary="Make a file of the parts, in the order named")
    def complete_upload(name: str, request: CompleteUpload) -> dict[str, Any]:
        return uploads.body(uploads.complete(name, request))

    @router.post("/{name}/cancel", summary="Throw the parts away")
    def cancel_upload(name: str) -> dict[str, Any]:
        return uploads.body(uploads.end(name, "cancelled"))

    return router


@dataclass(frozen=True, slots=True)
class Uploads:
    """Uploads of a desk, each with its parts."""

    workspace: Workspace

    def create(self, request: CreateUpload) -> StoredObject:
        """Begin one; those that nobody has completed in time are cleared away.

        Raises QuotaExceeded.
        """
        for old in self.workspace.objects.all("upload"):
            if old.status == "pending" and old.body["expires_at"] < time.time():
                self.end(old.id, "expired")
        now = int(time.time())
        body = {
            "bytes": request.bytes,
            "filename": os.path.basename(request.filename) or "upload",
            "purpose": request.purpose,
            "expires_at": now + _LIFETIME_SECONDS,
        }
        own = f"upload_{token_hex(12)}"
        upload = StoredObject(id=own, kind="upload", created_at=now, status="pending", body=body)
        with self.workspace.store.writing() as session:
            check_storage_quota(session, request.bytes)
            session.add(upload)
        return upload

    def add_part(self, name: str, data: UploadFile) -> StoredObject:
        """Keep a part. Raises NoSuchRecord; Refused for what is too large or comes too late."""
        announced = self._find_pending(name).body["bytes"]
        if (data.size or 0) > MAX_PART_BYTES:
            raise RequestError(
                f"A part has at most {MAX_PART_BYTES} bytes.", "data", "part_too_large"
            )
        kept = sum(part.stat().st_size for part in self._folder(name).glob("part_*"))
        if kept + (data.size or 0) > _MAX_SENT_RATIO * announced:
            said = f"The parts are more than the {announced} bytes that were announced."
            raise RequestError(said, "data", "too_many_bytes")
        own = f"part_{token_hex(12)}"
        with atomic_file(self._folder(name) / own) as draft:
            shutil.copyfileobj(data.file, draft, 2**20)
        return self.workspace.objects.add(
            StoredObject(
                id=own,
                kind="upload_part",
                parent=name,
                status="kept",
                body={"upload_id": name},
            )
        )

    def complete(self, name: str, request: CompleteUpload) -> StoredObject:
        """Put the parts together. Raises Refused if their bytes aren't what was announced."""
        upload = self._find_pending(name)
        known = {part.id for part in self.workspace.objects.all("upload_part", name)}
        if unknown := [part for part in request.part_ids if part not in known]:
            raise RequestError(f"{unknown[0]} is no part of {name}.", "part_ids", "invalid_part")
        parts = [self._folder(name) / part for part in request.part_ids]
        size = sum(part.stat().st_size for part in parts)
        if size != upload.body["bytes"]:
            said = f"The parts have {size} bytes; {upload.body['bytes']} were announced."
            raise RequestError(said, "part_ids", "wrong_size")
        if request.md5 and _md5(parts) != request.md5.lower():
            raise RequestError("The MD5 of the parts is another one.", "md5", "wrong_checksum")
        own = f"file-{sha256(name.encode()).hexdigest()[:24]}"
        with io.BufferedReader(_ConcatenatedFiles(parts), 2**20) as source:
            file = self.workspace.files.add(
                source, upload.body["filename"], upload.body["purpose"], own
            )
        return self.end(name, "completed", file)

    def end(self, name: str, status: str, file: File | None = None) -> StoredObject:
        """Complete, cancel or expire. Raises Refused for one that has ended already."""
        with self.workspace.objects.editing("upload", name) as upload:
            if upload.status != "pending":
                raise RequestError(
                    f"Upload {name} is {upload.status} already.", None, "upload_ended"
                )
            upload.status = status
            if file:
                upload.body = {**upload.body, "file": file.id}
        shutil.rmtree(self._folder(name), ignore_errors=True)
        return upload

    def body(self, upload: StoredObject) -> dict[str, Any]:
        """An upload as clients read it."""
        file = None
        if own := upload.body.get("file"):
            try:
                file = file_body(self.workspace.files.find(own))
            except StoredFileNotFound:
                file = None
        return {**object_body(upload, "upload"), "status": upload.status, "file": file}

    def _find_pending(self, name: str) -> StoredObject:
        upload = self.workspace.objects.find("upload", name)
        if upload.status == "pending" and upload.body["expires_at"] < time.time():
            upload = self.end(name, "expired")
        if upload.status != "pending":
            raise RequestError(f"Upload {name} is {upload.status}.", None, "upload_ended")
        return upload

    def _folder(self, name: str) -> Path:
        return self.workspace.home / "uploads" / name


class _ConcatenatedFiles(io.RawIOBase):
    """Several files read as one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._rest = list(paths)
        self._open: io.BufferedReader | None = None

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As RawIOBase says: 0 at the end."""
        while self._open or self._rest:
            self._open = self._open or self._rest.pop(0).open("rb")
            if count := self._open.readinto(buffer):
                return count
            self._open.close()
            self._open = None
        return 0


def _md5(parts: Sequence[Path]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        with part.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
