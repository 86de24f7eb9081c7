"""Uploaded and result files: bytes in the workspace, whole or absent, and a row for each."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from sqlalchemy import or_, select

from burnish.core.atomic import atomic_file
from burnish.serve.errors import RequestError
from burnish.serve.store.pagination import Order, fetch_page, find_by_id
from burnish.serve.store.quota import QuotaExceeded, check_storage_quota
from burnish.serve.store.schema import UNFINISHED, Database, File, Job

#: The purposes of files, with the suffix under which their bytes are kept.
PURPOSES = {
    "fine-tune": ".jsonl",
    "fine-tune-results": ".csv",
    "batch": ".jsonl",
    "batch_output": ".jsonl",
    "assistants": "",
    "vision": "",
    "user_data": "",
    "evals": ".jsonl",
}


class StoredFileNotFound(RequestError):
    """No file has that id."""

    status = 404

    def __init__(self, name: str) -> None:
        super().__init__(f"No such File object: {name}", "id")


@dataclass(frozen=True, slots=True)
class FileStore:
    """The files of a workspace."""

    store: Database
    folder: Path

    def path(self, file: File) -> Path:
        """Return the path of a file's bytes."""
        return self.folder / (file.id + PURPOSES[file.purpose])

    def add(self, source: BinaryIO, filename: str, purpose: str, name: str | None = None) -> File:
        """Write the bytes of `source`, then the row: a file with a row is whole.

        The quota of a file with a `name` (its id) was checked when it was announced. Raises
        QuotaExceeded.
        """
        file = File(id=name or f"file-{token_hex(12)}", filename=filename, purpose=purpose)
        with atomic_file(self.path(file)) as draft:
            shutil.copyfileobj(source, draft, 2**20)
            file.bytes = draft.tell()
        try:
            with self.store.writing() as session:
                if name is None:
                    check_storage_quota(session, file.bytes)
                existing = session.scalar(select(File).where(File.id == file.id))
                if existing is None:
                    session.add(file)
        except QuotaExceeded:
            self.path(file).unlink()
            raise
        return existing or file

    def find(self, name: str) -> File:
        """Find a file by its id. Raises StoredFileNotFound."""
        with self.store.reading() as session:
            file: File | None = find_by_id(session, File, name)
        if file is None:
            raise StoredFileNotFound(name)
        return file

    def page(
        self, purpose: str | None, after: str | None, limit: int, order: Order
    ) -> tuple[Sequence[File], bool]:
        """Return one page of files, and whether there are more."""
        query = select(File)
        if purpose:
            query = query.where(File.purpose == purpose)
        with self.store.reading() as session:
            return fetch_page(session, query, after, limit, order)

    def delete(self, name: str) -> None:
        """Delete a file. Raises StoredFileNotFound; RequestError while a job needs it."""
        with self.store.writing() as session:
            file: File | None = find_by_id(session, File, name)
            if file is None:
                raise StoredFileNotFound(name)
            needs_file = or_(Job.training_file == name, Job.validation_file == name)
            is_unfinished = Job.status.in_(UNFINISHED)
            job = session.scalar(select(Job.id).where(needs_file, is_unfinished).limit(1))
            if job:
                raise RequestError(f"{name} is needed by {job}: cancel the job first.", "id")
            session.delete(file)
        self.path(file).unlink(missing_ok=True)
