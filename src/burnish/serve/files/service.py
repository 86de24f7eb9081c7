"""Files that are uploaded in parts: `client.uploads`.

The parts lie in a folder of the upload until they are joined. The file's id is derived from the
upload's, so that joining them again after a crash makes the same file.
"""

import hashlib
import io
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any

from fastapi import UploadFile

from burnish.core.atomic import atomic_file
from burnish.serve.errors import RequestError
from burnish.serve.files.protocol import (
    CompleteUpload,
    CreateUpload,
    UploadObject,
    upload_object,
)
from burnish.serve.store.files import StoredFileNotFound
from burnish.serve.store.quota import check_storage_quota
from burnish.serve.store.schema import File, StoredObject
from burnish.serve.store.workspace import Workspace

#: Seconds until an upload that nobody completes is discarded, as in the hosted API.
_LIFETIME_SECONDS = 3600
MAX_PART_BYTES = 64 * 2**20
#: A client whose connection broke may send every part twice; more would circumvent the quota.
_MAX_SENT_RATIO = 2


@dataclass(frozen=True, slots=True)
class Uploads:
    """The uploads of a workspace, each with its parts."""

    workspace: Workspace

    def create(self, request: CreateUpload) -> StoredObject:
        """Begin an upload, and discard those that were not completed in time.

        Raises QuotaExceeded.
        """
        for other in self.workspace.objects.all("upload"):
            if other.status == "pending" and other.body["expires_at"] < time.time():
                self.end(other.id, "expired")
        now = int(time.time())
        body = {
            "bytes": request.bytes,
            "filename": os.path.basename(request.filename) or "upload",
            "purpose": request.purpose,
            "expires_at": now + _LIFETIME_SECONDS,
        }
        upload = StoredObject(
            id=f"upload_{token_hex(12)}",
            kind="upload",
            created_at=now,
            status="pending",
            body=body,
        )
        with self.workspace.store.writing() as session:
            check_storage_quota(session, request.bytes)
            session.add(upload)
        return upload

    def add_part(self, name: str, data: UploadFile) -> StoredObject:
        """Keep a part. Raises ObjectNotFound; RequestError if it is too large or too late."""
        announced = self._find_pending(name).body["bytes"]
        if (data.size or 0) > MAX_PART_BYTES:
            raise RequestError(
                f"A part has at most {MAX_PART_BYTES} bytes.", "data", "part_too_large"
            )
        kept = sum(part.stat().st_size for part in self._folder(name).glob("part_*"))
        if kept + (data.size or 0) > _MAX_SENT_RATIO * announced:
            message = f"The parts exceed the {announced} bytes that were announced."
            raise RequestError(message, "data", "too_many_bytes")
        part_id = f"part_{token_hex(12)}"
        with atomic_file(self._folder(name) / part_id) as draft:
            shutil.copyfileobj(data.file, draft, 2**20)
        return self.workspace.objects.add(
            StoredObject(
                id=part_id,
                kind="upload_part",
                parent=name,
                status="kept",
                body={"upload_id": name},
            )
        )

    def complete(self, name: str, request: CompleteUpload) -> StoredObject:
        """Join the parts. Raises RequestError if their bytes are not those announced."""
        upload = self._find_pending(name)
        known = {part.id for part in self.workspace.objects.all("upload_part", name)}
        if unknown := [part for part in request.part_ids if part not in known]:
            raise RequestError(f"{unknown[0]} is not a part of {name}.", "part_ids", "invalid_part")
        parts = [self._folder(name) / part for part in request.part_ids]
        size = sum(part.stat().st_size for part in parts)
        if size != upload.body["bytes"]:
            message = f"The parts have {size} bytes; {upload.body['bytes']} were announced."
            raise RequestError(message, "part_ids", "wrong_size")
        if request.md5 and _md5(parts) != request.md5.lower():
            raise RequestError("The MD5 of the parts differs.", "md5", "wrong_checksum")
        file_id = f"file-{sha256(name.encode()).hexdigest()[:24]}"
        with io.BufferedReader(_ConcatenatedFiles(parts), 2**20) as source:
            file = self.workspace.files.add(
                source, upload.body["filename"], upload.body["purpose"], file_id
            )
        return self.end(name, "completed", file)

    def end(self, name: str, status: str, file: File | None = None) -> StoredObject:
        """Complete, cancel or expire an upload. Raises RequestError if it has ended already."""
        with self.workspace.objects.editing("upload", name) as upload:
            if upload.status != "pending":
                raise RequestError(
                    f"Upload {name} is already {upload.status}.", None, "upload_ended"
                )
            upload.status = status
            if file:
                upload.body = {**upload.body, "file": file.id}
        shutil.rmtree(self._folder(name), ignore_errors=True)
        return upload

    def describe(self, upload: StoredObject) -> UploadObject:
        """Describe an upload, with its file unless that has been deleted."""
        file = None
        if file_id := upload.body.get("file"):
            with suppress(StoredFileNotFound):
                file = self.workspace.files.find(file_id)
        return upload_object(upload, file)

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
    """Reads several files as one stream."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self._open: io.BufferedReader | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the current file goes; 0 at the end of the last."""
        while self._open or self._paths:
            self._open = self._open or self._paths.pop(0).open("rb")
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
