"""Create batches, and change their status."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

from burnish.serve.auth.keys import CURRENT_KEY
from burnish.serve.batches.protocol import CreateBatch
from burnish.serve.errors import RequestError
from burnish.serve.store.files import StoredFileNotFound
from burnish.serve.store.schema import StoredObject
from burnish.serve.store.workspace import Workspace

UNFINISHED_STATUSES = ("validating", "in_progress", "cancelling")
_DAY_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches of a workspace."""

    workspace: Workspace

    def create(self, request: CreateBatch) -> StoredObject:
        """Create a batch. Raises RequestError for a file that does not exist or has another
        purpose."""
        try:
            file = self.workspace.files.find(request.input_file_id)
        except StoredFileNotFound as error:
            message = f"{request.input_file_id} does not exist."
            raise RequestError(message, "input_file_id", "file_not_found") from error
        if file.purpose != "batch":
            message = f"{file.id} has the purpose `{file.purpose}`; it must be `batch`."
            raise RequestError(message, "input_file_id", "invalid_file_purpose")
        now = int(time.time())
        body = {
            **request.model_dump(),
            "key": CURRENT_KEY.get().name,
            "expires_at": now + _DAY_SECONDS,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }
        batch = StoredObject(
            id=f"batch_{token_hex(12)}",
            kind="batch",
            created_at=now,
            status="validating",
            body=body,
        )
        return self.workspace.objects.add(batch)

    def cancel(self, name: str) -> StoredObject:
        """Send no more lines; answers that exist stay. Raises RequestError if it has ended."""
        if self.workspace.objects.find("batch", name).status not in ("validating", "in_progress"):
            raise RequestError(f"Batch {name} has ended: it is too late to cancel it.")
        return self.set_status(name, "cancelling", ("validating", "in_progress"))

    def set_status(
        self, name: str, status: str, only_from: Sequence[str] = UNFINISHED_STATUSES, **facts: Any
    ) -> StoredObject:
        """Change the status of a batch, if its current one is in `only_from`."""
        with self.workspace.objects.editing("batch", name) as batch:
            if batch.status in only_from:
                batch.body = {**batch.body, f"{status}_at": int(time.time()), **facts}
                batch.status = status
        return batch
