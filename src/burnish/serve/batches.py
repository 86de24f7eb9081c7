"""`client.batches`: a file of requests, answered when there is time.

Answers are appended to a journal as they come, so that a batch that was interrupted asks nothing
twice; at its end the journal becomes the output file and the error file.
"""

import asyncio
import contextvars
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal

from fastapi import APIRouter

from burnish.core.journal import Journal, read_journal
from burnish.serve.auth.keys import CURRENT_KEY, ApiKeys
from burnish.serve.auth.rate_limit import RateLimiter
from burnish.serve.background.tasks import BackgroundTask
from burnish.serve.errors import RequestError
from burnish.serve.inference.local_client import call_endpoint
from burnish.serve.inference.service import InferenceService
from burnish.serve.protocol import Id, Labels, PageLimit, StrictApiModel
from burnish.serve.store.files import StoredFileNotFound
from burnish.serve.store.objects import object_body
from burnish.serve.store.pagination import page_body
from burnish.serve.store.schema import StoredObject
from burnish.serve.store.workspace import Workspace

MAX_LINES = 50_000
#: Lines asked together: enough to fill the model's batches, few enough to leave room to others.
_CONCURRENCY = 16
#: Seconds between two looks whether a key may ask again.
_POLL_SECONDS = 0.2
_DAY_SECONDS = 24 * 3600
_UNFINISHED = ("validating", "in_progress", "cancelling")
_STATUSES_WITH_TIME = (
    "in_progress",
    "finalizing",
    "completed",
    "failed",
    "expired",
    "cancelling",
    "cancelled",
)


class CreateBatch(StrictApiModel):
    """POST /batches."""

    input_file_id: Id
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: Labels = None


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches of a desk."""

    workspace: Workspace

    def create(self, request: CreateBatch) -> StoredObject:
        """Begin one. Raises Refused for a file that isn't here or isn't for batches."""
        try:
            file = self.workspace.files.find(request.input_file_id)
        except StoredFileNotFound as error:
            said = f"{request.input_file_id} does not exist."
            raise RequestError(said, "input_file_id", "file_not_found") from error
        if file.purpose != "batch":
            said = f"{file.id} has the purpose `{file.purpose}`; it must be `batch`."
            raise RequestError(said, "input_file_id", "invalid_file_purpose")
        now = int(time.time())
        body = {
            **request.model_dump(),
            "key": CURRENT_KEY.get().name,
            "expires_at": now + _DAY_SECONDS,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }
        own = f"batch_{token_hex(12)}"
        return self.workspace.objects.add(
            StoredObject(id=own, kind="batch", created_at=now, status="validating", body=body)
        )

    def cancel(self, name: str) -> StoredObject:
        """Ask no more lines; what has been answered stays. Raises Refused for one that is over."""
        if self.workspace.objects.find("batch", name).status not in ("validating", "in_progress"):
            raise RequestError(f"Batch {name} has ended: it is too late to cancel it.")
        return self.set_status(name, "cancelling", ("validating", "in_progress"))

    def set_status(
        self, name: str, status: str, only_from: Sequence[str] = _UNFINISHED, **facts: Any
    ) -> StoredObject:
        """Bring a batch to another state, if it is in one that allows it."""
        with self.workspace.objects.editing("batch", name) as batch:
            if batch.status in only_from:
                batch.body = {**batch.body, f"{status}_at": int(time.time()), **facts}
                batch.status = status
        return batch


def batch_routes(workspace: Workspace) -> APIRouter:
    """Make, follow and cancel batches."""
    router, batches = APIRouter(prefix="/batches"), Batches(workspace)

    @router.post("", summary="Answer a file of requests")
    def create_batch(request: CreateBatch) -> dict[str, Any]:
        return batch_body(batches.create(request))

    @router.get("", summary="The batches, newest first")
    def list_batches(after: str | None = None, limit: PageLimit = 20) -> dict[str, Any]:
        return page_body(*workspace.objects.page("batch", None, after, limit), batch_body)

    @router.get("/{name}", summary="One batch")
    def get_batch(name: str) -> dict[str, Any]:
        return batch_body(workspace.objects.find("batch", name))

    @router.post("/{name}/cancel", summary="Ask no more of a batch's lines")
    def cancel_batch(name: str) -> dict[str, Any]:
        return batch_body(batches.cancel(name))

    return router


def batch_body(batch: StoredObject) -> dict[str, Any]:
    """A batch as clients read it."""
    absent = (
        "output_file_id",
        "error_file_id",
        "errors",
        *(f"{name}_at" for name in _STATUSES_WITH_TIME),
    )
    known = {**dict.fromkeys(absent), **object_body(batch, "batch"), "status": batch.status}
    return {name: value for name, value in known.items() if name != "key"}


@dataclass(frozen=True, slots=True)
class BatchWorker:
    """Leads batches on, asking the house in its event loop."""

    workspace: Workspace
    service: InferenceService
    keys: ApiKeys
    rate_limiter: RateLimiter
    loop: asyncio.AbstractEventLoop

    @property
    def task(self) -> BackgroundTask:
        """The work, for the thread that does it."""
        return BackgroundTask("batch", _UNFINISHED, self.process)

    def process(self, batch: StoredObject, should_stop: Callable[[], bool]) -> None:
        """Check, answer and put away one batch; may be called again for the same one."""
        batches = Batches(self.workspace)
        lines, errors = self._read_lines(batch)
        if errors:
            listed = {"object": "list", "data": errors}
            batches.set_status(batch.id, "failed", errors=listed)
            return
        if batch.status == "validating":
            batch = batches.set_status(batch.id, "in_progress", ("validating",))
        folder = self.workspace.home / "batches" / batch.id
        journal = Journal(folder / "answers.jsonl")
        entries = read_journal(journal.path)
        done = {entry["custom_id"] for entry in entries}
        rest = [line for line in lines if line["custom_id"] not in done]
        while (
            rest
            and (batch := self.workspace.objects.find("batch", batch.id)).status == "in_progress"
        ):
            if should_stop():
                return
            if time.time() > batch.body["expires_at"]:
                break
            count = self._take_allowance(batch, min(_CONCURRENCY, len(rest)))
            if count == 0:  # the key's minute is used up: the batch waits for the next turn
                time.sleep(_POLL_SECONDS)
                continue
            some, rest = rest[:count], rest[count:]
            for answer in self._answer_lines(batch, some):
                journal.write(**answer)
                entries.append(answer)
            counts = _count_results(entries, len(lines))
            with self.workspace.objects.editing("batch", batch.id) as held:
                held.body = {**held.body, "request_counts": counts}
        end = "expired" if rest and batch.status == "in_progress" else "completed"
        self._finish(batch, entries, len(lines), end)

    def _read_lines(self, batch: StoredObject) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The lines of a batch, and what is wrong with them."""
        try:
            path: Path = self.workspace.files.path(
                self.workspace.files.find(batch.body["input_file_id"])
            )
            content = path.read_text(encoding="utf-8-sig").split("\n")
        except (StoredFileNotFound, OSError, UnicodeDecodeError) as error:
            return [], [_line_error("invalid_input_file", str(error), None)]
        numbered = [(n, line) for n, line in enumerate(content, 1) if line.strip()]
        if not numbered or len(numbered) > MAX_LINES:
            said = f"The file has {len(numbered)} requests; 1 to {MAX_LINES} are taken."
            return [], [_line_error("invalid_input_file", said, None)]
        lines, errors = [], []
        seen: set[Any] = set()
        for number, text in numbered:
            line, wrong = _parse_line(text, batch.body["endpoint"], seen)
            seen.add(line.get("custom_id"))
            lines.append(line)
            errors += [_line_error(wrong[0], wrong[1], number)] if wrong else []
        return lines, errors[:100]

    def _take_allowance(self, batch: StoredObject, wanted: int) -> int:
        """How many lines may be asked now by the rate of the batch's key; each is counted."""
        key = self.keys.find_by_name(batch.body["key"])
        if key is None:
            return wanted
        for number in range(wanted):
            if "retry-after" in self.rate_limiter.take(key):
                return number
        return wanted

    def _answer_lines(
        self, batch: StoredObject, lines: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Answers to some lines, asked together in the name of whoever made the batch."""
        key = self.keys.find_by_name(batch.body["key"])
        if key is None or key.organization != batch.organization:
            refusal = {"code": "invalid_api_key", "message": "The batch's key has been removed."}
            return [_result_entry(line, None, refusal) for line in lines]

        async def ask_all() -> list[tuple[int, Any]]:
            CURRENT_KEY.set(key)
            endpoint = batch.body["endpoint"]
            return await asyncio.gather(
                *[call_endpoint(self.service, endpoint, dict(x["body"])) for x in lines]
            )

        context = contextvars.copy_context()
        task = context.run(asyncio.run_coroutine_threadsafe, ask_all(), self.loop)
        return [
            _result_entry(line, {"status_code": status, "body": body}, None)
            for line, (status, body) in zip(lines, task.result(), strict=True)
        ]

    def _finish(self, batch: StoredObject, entries: Sequence[Any], total: int, end: str) -> None:
        """Make the two files, then say how the batch has ended."""
        if batch.status == "cancelling":
            end = "cancelled"
        good = [entry for entry in entries if _is_success(entry)]
        bad = [entry for entry in entries if not _is_success(entry)]
        files = {
            f"{name}_file_id": self._write_result_file(batch, name, some)
            for name, some in (("output", good), ("error", bad))
            if some
        }
        Batches(self.workspace).set_status(
            batch.id, end, request_counts=_count_results(entries, total), **files
        )

    def _write_result_file(
        self, batch: StoredObject, name: str, entries: Sequence[Mapping[str, Any]]
    ) -> str:
        own = f"file-{sha256(f'{batch.id}/{name}'.encode()).hexdigest()[:24]}"
        kept = [{key: value for key, value in e.items() if key != "at"} for e in entries]
        source = io.BytesIO("".join(json.dumps(entry) + "\n" for entry in kept).encode())
        return self.workspace.files.add(source, f"{batch.id}_{name}.jsonl", "batch_output", own).id


def _parse_line(
    text: str, endpoint: str, seen: set[Any]
) -> tuple[dict[str, Any], tuple[str, str] | None]:
    """A line, and what is wrong with it: code and words."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return {}, ("invalid_json_line", "The line is not JSON.")
    if not isinstance(line, dict) or not isinstance(line.get("custom_id"), str):
        return {}, ("missing_required_parameter", "The line has no text `custom_id`.")
    if line["custom_id"] in seen:
        return line, ("duplicate_custom_id", f"`{line['custom_id']}` stands in an earlier line.")
    if line.get("method") != "POST" or line.get("url") != endpoint:
        return line, ("invalid_url", f"The line must POST to {endpoint}, as the batch does.")
    if not isinstance(line.get("body"), dict):
        return line, ("missing_required_parameter", "The line has no `body`.")
    return line, None


def _result_entry(line: Mapping[str, Any], response: Any, error: Any) -> dict[str, Any]:
    if response:
        response = {"request_id": f"req_{token_hex(16)}", **response}
    own = f"batch_req_{token_hex(12)}"
    return {"id": own, "custom_id": line["custom_id"], "response": response, "error": error}


def _is_success(entry: Mapping[str, Any]) -> bool:
    return bool(entry["response"]) and entry["response"]["status_code"] == 200


def _count_results(entries: Sequence[Mapping[str, Any]], total: int) -> dict[str, int]:
    good = sum(_is_success(entry) for entry in entries)
    return {"total": total, "completed": good, "failed": len(entries) - good}


def _line_error(code: str, message: str, line: int | None) -> dict[str, Any]:
    return {"code": code, "message": message, "line": line, "param": None}
