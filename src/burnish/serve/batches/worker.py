"""Background task that answers the lines of batches.

Answers are appended to a journal as they come, so that an interrupted batch sends no line twice; at
its end the journal becomes the output file and the error file.
"""

import asyncio
import contextvars
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any

from burnish.core.journal import Journal, read_journal
from burnish.core.json_text import BadJson, parse_json
from burnish.serve.auth.keys import CURRENT_KEY, ApiKey, ApiKeys
from burnish.serve.auth.rate_limit import RateLimiter
from burnish.serve.background.tasks import STARTS, BackgroundTask, Turn
from burnish.serve.batches.protocol import (
    BatchError,
    BatchErrorList,
    BatchLineResult,
    LineError,
    LineResponse,
)
from burnish.serve.batches.service import UNFINISHED_STATUSES, Batches
from burnish.serve.errors import error_body
from burnish.serve.inference.local_client import call_endpoint
from burnish.serve.inference.service import InferenceService
from burnish.serve.store.files import StoredFileNotFound
from burnish.serve.store.jobs import make_storable
from burnish.serve.store.quota import QuotaExceeded, check_storage_quota
from burnish.serve.store.schema import StoredObject
from burnish.serve.store.workspace import Workspace

MAX_LINES = 50_000
_MAX_REPORTED_ERRORS = 100
#: Lines sent together: enough to fill the model's batches, few enough to leave room to others.
_CONCURRENCY = 16
#: Seconds between two checks whether the key's rate limit allows more.
_POLL_SECONDS = 0.2
#: Seconds until a batch without allowance has its next turn, if another one waits.
_DEFER_SECONDS = 2.0
#: Characters of a line: as many as a request over HTTP may have bytes.
_MAX_LINE_LENGTH = 8 * 2**20
_MAX_ID_LENGTH = 512


@dataclass(frozen=True, slots=True)
class BatchWorker:
    """Answers batches, calling the inference service in its event loop."""

    workspace: Workspace
    service: InferenceService
    keys: ApiKeys
    rate_limiter: RateLimiter
    loop: asyncio.AbstractEventLoop

    @property
    def task(self) -> BackgroundTask:
        """The task to run in the background."""
        return BackgroundTask("batch", UNFINISHED_STATUSES, self.process, self.fail, resumable=True)

    def fail(self, batch: StoredObject, reason: str) -> None:
        """End a batch that cannot be answered."""
        listed = BatchErrorList(data=[_line_error("server_error", reason, None)]).model_dump()
        Batches(self.workspace).set_status(batch.id, "failed", errors=listed)

    def process(self, batch: StoredObject, turn: Turn) -> float | None:
        """Check and answer one batch, then write its files. Repeating it for a batch is safe.

        Returns the seconds to wait for the rate limit of its key, while another batch is answered.
        """
        batches = Batches(self.workspace)
        lines, errors = self._read_lines(batch)
        if errors:
            listed = BatchErrorList(data=errors[:_MAX_REPORTED_ERRORS]).model_dump()
            batches.set_status(batch.id, "failed", errors=listed)
            return None
        if batch.status == "validating":
            batch = batches.set_status(batch.id, "in_progress", ("validating",))
        journal = Journal(self._journal_path(batch))
        results = read_journal(journal.path)
        done = {result["custom_id"] for result in results}
        rest = [line for line in lines if line["custom_id"] not in done]
        while (
            rest
            and (batch := self.workspace.objects.find("batch", batch.id)).status == "in_progress"
        ):
            if turn.should_stop():
                return None
            if time.time() > batch.body["expires_at"]:
                break
            count = self._take_allowance(batch, min(_CONCURRENCY, len(rest)))
            if count == 0:  # the rate limit is used up: the batch waits
                if turn.others_wait():
                    return _DEFER_SECONDS
                time.sleep(_POLL_SECONDS)
                continue
            chunk, rest = rest[:count], rest[count:]
            for result in self._answer_lines(batch, chunk):
                journal.write(**result)
                results.append(dict(result))
            counts = _count_results(results, len(lines))
            with self.workspace.objects.editing("batch", batch.id) as record:
                record.body = {**record.body, "request_counts": counts, STARTS: 1}
        status = "expired" if rest and batch.status == "in_progress" else "completed"
        self._finish(batch, results, len(lines), status)
        return None

    def _read_lines(self, batch: StoredObject) -> tuple[list[dict[str, Any]], list[BatchError]]:
        """Return the lines of a batch, and the errors in them."""
        try:
            file = self.workspace.files.find(batch.body["input_file_id"])
            path: Path = self.workspace.files.path(file)
            content = path.read_text(encoding="utf-8-sig").split("\n")
        except (StoredFileNotFound, OSError, UnicodeDecodeError) as error:
            return [], [_line_error("invalid_input_file", str(error), None)]
        numbered = [(number, line) for number, line in enumerate(content, 1) if line.strip()]
        if not numbered or len(numbered) > MAX_LINES:
            message = f"The file has {len(numbered)} requests; 1 to {MAX_LINES} are allowed."
            return [], [_line_error("invalid_input_file", message, None)]
        lines, errors = [], []
        seen: set[Any] = set()
        for number, text in numbered:
            line, fault = _parse_line(text, batch.body["endpoint"], seen)
            seen.add(line.get("custom_id"))
            lines.append(line)
            if fault:
                errors.append(_line_error(*fault, number))
        return lines, errors

    def _take_allowance(self, batch: StoredObject, wanted: int) -> int:
        """Return how many lines the rate limit of the batch's key allows now, and count them."""
        key = self.keys.find_by_name(batch.body["key"])
        if key is None:
            return wanted
        for number in range(wanted):
            if "retry-after" in self.rate_limiter.take(key):
                return number
        return wanted

    def _answer_lines(
        self, batch: StoredObject, lines: Sequence[Mapping[str, Any]]
    ) -> list[BatchLineResult]:
        """Answer lines concurrently, with the key that created the batch."""
        key = self.keys.find_by_name(batch.body["key"])
        if key is None or key.organization != batch.organization:
            error: LineError = {
                "code": "invalid_api_key",
                "message": "The batch's key has been removed.",
            }
            return [_line_result(line, None, error) for line in lines]
        if message := self._quota_error(batch, key):
            error = {"code": "quota_exceeded", "message": message}
            return [_line_result(line, None, error) for line in lines]
        responses = self._call_endpoint(key, batch.body["endpoint"], lines)
        return [
            _line_result(line, response, None)
            for line, response in zip(lines, responses, strict=True)
        ]

    def _quota_error(self, batch: StoredObject, key: ApiKey) -> str:
        """Return why no more answers may be kept; empty while there is room for them."""
        journal = self._journal_path(batch)
        before = CURRENT_KEY.set(key)
        try:
            with self.workspace.store.writing() as session:
                check_storage_quota(session, journal.stat().st_size if journal.exists() else 0)
        except QuotaExceeded as error:
            return error.what
        finally:
            CURRENT_KEY.reset(before)
        return ""

    def _journal_path(self, batch: StoredObject) -> Path:
        return self.workspace.home / "batches" / batch.id / "answers.jsonl"

    def _call_endpoint(
        self, key: ApiKey, endpoint: str, lines: Sequence[Mapping[str, Any]]
    ) -> list[LineResponse]:
        async def call_all() -> list[tuple[int, Any] | BaseException]:
            CURRENT_KEY.set(key)
            return await asyncio.gather(
                *[call_endpoint(self.service, endpoint, dict(line["body"])) for line in lines],
                return_exceptions=True,
            )

        context = contextvars.copy_context()
        future = context.run(asyncio.run_coroutine_threadsafe, call_all(), self.loop)
        return [
            {"request_id": f"req_{token_hex(16)}", "status_code": status, "body": body}
            for status, body in map(_status_and_body, future.result())
        ]

    def _finish(
        self, batch: StoredObject, results: Sequence[Mapping[str, Any]], total: int, status: str
    ) -> None:
        """Write the two files, then set the final status of the batch."""
        if batch.status == "cancelling":
            status = "cancelled"
        succeeded = [result for result in results if _is_success(result)]
        failed = [result for result in results if not _is_success(result)]
        files = {
            f"{name}_file_id": self._write_result_file(batch, name, part)
            for name, part in (("output", succeeded), ("error", failed))
            if part
        }
        Batches(self.workspace).set_status(
            batch.id, status, request_counts=_count_results(results, total), **files
        )

    def _write_result_file(
        self, batch: StoredObject, name: str, results: Sequence[Mapping[str, Any]]
    ) -> str:
        file_id = f"file-{sha256(f'{batch.id}/{name}'.encode()).hexdigest()[:24]}"
        # The journal adds the time of each entry.
        lines = [{key: value for key, value in one.items() if key != "at"} for one in results]
        source = io.BytesIO("".join(json.dumps(line) + "\n" for line in lines).encode())
        filename = f"{batch.id}_{name}.jsonl"
        return self.workspace.files.add(source, filename, "batch_output", file_id).id


def _parse_line(
    text: str, endpoint: str, seen: set[Any]
) -> tuple[dict[str, Any], tuple[str, str] | None]:
    """Return a line, and the code and message of its first fault."""
    if len(text) > _MAX_LINE_LENGTH:
        message = f"The line has {len(text)} characters; at most {_MAX_LINE_LENGTH} are allowed."
        return {}, ("line_too_long", message)
    try:
        line = parse_json(text)
    except BadJson as error:
        return {}, ("invalid_json_line", f"The line is not JSON: {error.reason}.")
    if not isinstance(line, dict) or not isinstance(line.get("custom_id"), str):
        return {}, ("missing_required_parameter", "The line has no `custom_id` that is text.")
    if len(line["custom_id"]) > _MAX_ID_LENGTH:
        return {}, ("invalid_custom_id", f"A `custom_id` has at most {_MAX_ID_LENGTH} characters.")
    if line["custom_id"] in seen:
        return line, ("duplicate_custom_id", f"`{line['custom_id']}` is used by an earlier line.")
    if line.get("method") != "POST" or line.get("url") != endpoint:
        return line, ("invalid_url", f"The line must POST to {endpoint}, as the batch does.")
    if not isinstance(line.get("body"), dict):
        return line, ("missing_required_parameter", "The line has no `body`.")
    return line, None


def _status_and_body(outcome: tuple[int, Any] | BaseException) -> tuple[int, Any]:
    """Return the response to a line; an unexpected error is the line's, not the batch's."""
    if isinstance(outcome, BaseException):
        return 500, error_body(500, "The server had an error while processing your request.")
    return outcome


def _line_error(code: str, message: str, line: int | None) -> BatchError:
    return BatchError(code=code, message=make_storable(message), line=line)


def _line_result(
    line: Mapping[str, Any], response: LineResponse | None, error: LineError | None
) -> BatchLineResult:
    return {
        "id": f"batch_req_{token_hex(12)}",
        "custom_id": line["custom_id"],
        "response": response,
        "error": error,
    }


def _is_success(result: Mapping[str, Any]) -> bool:
    return bool(result["response"]) and result["response"]["status_code"] == 200


def _count_results(results: Sequence[Mapping[str, Any]], total: int) -> dict[str, int]:
    succeeded = sum(_is_success(result) for result in results)
    return {"total": total, "completed": succeeded, "failed": len(results) - succeeded}
