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
from burnish.serve.auth.keys import CALLER, Keys
from burnish.serve.auth.rate_limit import Rates
from burnish.serve.background.tasks import Errand
from burnish.serve.errors import Refused
from burnish.serve.inference.local_client import ask
from burnish.serve.inference.service import House
from burnish.serve.protocol import Closed, Id, Labels, Limit
from burnish.serve.store.files import NoSuchFile
from burnish.serve.store.objects import body_of
from burnish.serve.store.pagination import page_body
from burnish.serve.store.schema import Record
from burnish.serve.store.workspace import Desk

MOST_LINES = 50_000
#: Lines asked together: enough to fill the model's batches, few enough to leave room to others.
_TOGETHER = 16
#: Seconds between two looks whether a key may ask again.
_TURN = 0.2
_DAY = 24 * 3600
_OPEN = ("validating", "in_progress", "cancelling")
_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


class CreateBatch(Closed):
    """POST /batches."""

    input_file_id: Id
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: Labels = None


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches of a desk."""

    desk: Desk

    def create(self, asked: CreateBatch) -> Record:
        """Begin one. Raises Refused for a file that isn't here or isn't for batches."""
        try:
            file = self.desk.files.find(asked.input_file_id)
        except NoSuchFile as error:
            said = f"{asked.input_file_id} does not exist."
            raise Refused(said, "input_file_id", "file_not_found") from error
        if file.purpose != "batch":
            said = f"{file.id} has the purpose `{file.purpose}`; it must be `batch`."
            raise Refused(said, "input_file_id", "invalid_file_purpose")
        now = int(time.time())
        body = {
            **asked.model_dump(),
            "key": CALLER.get().name,
            "expires_at": now + _DAY,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }
        own = f"batch_{token_hex(12)}"
        return self.desk.records.add(
            Record(id=own, kind="batch", created_at=now, status="validating", body=body)
        )

    def cancel(self, name: str) -> Record:
        """Ask no more lines; what has been answered stays. Raises Refused for one that is over."""
        if self.desk.records.find("batch", name).status not in ("validating", "in_progress"):
            raise Refused(f"Batch {name} has ended: it is too late to cancel it.")
        return self.lead(name, "cancelling", ("validating", "in_progress"))

    def lead(
        self, name: str, status: str, only_from: Sequence[str] = _OPEN, **facts: Any
    ) -> Record:
        """Bring a batch to another state, if it is in one that allows it."""
        with self.desk.records.changing("batch", name) as batch:
            if batch.status in only_from:
                batch.body = {**batch.body, f"{status}_at": int(time.time()), **facts}
                batch.status = status
        return batch


def batch_routes(desk: Desk) -> APIRouter:
    """Make, follow and cancel batches."""
    router, batches = APIRouter(prefix="/batches"), Batches(desk)

    @router.post("", summary="Answer a file of requests")
    def create(asked: CreateBatch) -> dict[str, Any]:
        return batch_body(batches.create(asked))

    @router.get("", summary="The batches, newest first")
    def some(after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
        return page_body(*desk.records.page("batch", None, after, limit), batch_body)

    @router.get("/{name}", summary="One batch")
    def one(name: str) -> dict[str, Any]:
        return batch_body(desk.records.find("batch", name))

    @router.post("/{name}/cancel", summary="Ask no more of a batch's lines")
    def cancel(name: str) -> dict[str, Any]:
        return batch_body(batches.cancel(name))

    return router


def batch_body(batch: Record) -> dict[str, Any]:
    """A batch as clients read it."""
    absent = ("output_file_id", "error_file_id", "errors", *(f"{name}_at" for name in _TIMES))
    known = {**dict.fromkeys(absent), **body_of(batch, "batch"), "status": batch.status}
    return {name: value for name, value in known.items() if name != "key"}


@dataclass(frozen=True, slots=True)
class BatchWork:
    """Leads batches on, asking the house in its event loop."""

    desk: Desk
    house: House
    keys: Keys
    rates: Rates
    loop: asyncio.AbstractEventLoop

    @property
    def errand(self) -> Errand:
        """The work, for the thread that does it."""
        return Errand("batch", _OPEN, self.work)

    def work(self, batch: Record, is_to_stop: Callable[[], bool]) -> None:
        """Check, answer and put away one batch; may be called again for the same one."""
        batches = Batches(self.desk)
        lines, errors = self._read(batch)
        if errors:
            listed = {"object": "list", "data": errors}
            batches.lead(batch.id, "failed", errors=listed)
            return
        if batch.status == "validating":
            batch = batches.lead(batch.id, "in_progress", ("validating",))
        folder = self.desk.home / "batches" / batch.id
        journal = Journal(folder / "answers.jsonl")
        entries = read_journal(journal.path)
        done = {entry["custom_id"] for entry in entries}
        rest = [line for line in lines if line["custom_id"] not in done]
        while rest and (batch := self.desk.records.find("batch", batch.id)).status == "in_progress":
            if is_to_stop():
                return
            if time.time() > batch.body["expires_at"]:
                break
            count = self._turns(batch, min(_TOGETHER, len(rest)))
            if count == 0:  # the key's minute is used up: the batch waits for the next turn
                time.sleep(_TURN)
                continue
            some, rest = rest[:count], rest[count:]
            for answer in self._ask(batch, some):
                journal.write(**answer)
                entries.append(answer)
            counts = _counts(entries, len(lines))
            with self.desk.records.changing("batch", batch.id) as held:
                held.body = {**held.body, "request_counts": counts}
        end = "expired" if rest and batch.status == "in_progress" else "completed"
        self._end(batch, entries, len(lines), end)

    def _read(self, batch: Record) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The lines of a batch, and what is wrong with them."""
        try:
            path: Path = self.desk.files.path(self.desk.files.find(batch.body["input_file_id"]))
            content = path.read_text(encoding="utf-8-sig").split("\n")
        except (NoSuchFile, OSError, UnicodeDecodeError) as error:
            return [], [_fault("invalid_input_file", str(error), None)]
        numbered = [(n, line) for n, line in enumerate(content, 1) if line.strip()]
        if not numbered or len(numbered) > MOST_LINES:
            said = f"The file has {len(numbered)} requests; 1 to {MOST_LINES} are taken."
            return [], [_fault("invalid_input_file", said, None)]
        lines, errors = [], []
        seen: set[Any] = set()
        for number, text in numbered:
            line, wrong = _line(text, batch.body["endpoint"], seen)
            seen.add(line.get("custom_id"))
            lines.append(line)
            errors += [_fault(wrong[0], wrong[1], number)] if wrong else []
        return lines, errors[:100]

    def _turns(self, batch: Record, wanted: int) -> int:
        """How many lines may be asked now by the rate of the batch's key; each is counted."""
        key = self.keys.by_name(batch.body["key"])
        if key is None:
            return wanted
        for number in range(wanted):
            if "retry-after" in self.rates.take(key):
                return number
        return wanted

    def _ask(self, batch: Record, lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Answers to some lines, asked together in the name of whoever made the batch."""
        key = self.keys.by_name(batch.body["key"])
        if key is None or key.organization != batch.organization:
            refusal = {"code": "invalid_api_key", "message": "The batch's key has been removed."}
            return [_answer(line, None, refusal) for line in lines]

        async def all_of_them() -> list[tuple[int, Any]]:
            CALLER.set(key)
            endpoint = batch.body["endpoint"]
            return await asyncio.gather(
                *[ask(self.house, endpoint, dict(x["body"])) for x in lines]
            )

        context = contextvars.copy_context()
        task = context.run(asyncio.run_coroutine_threadsafe, all_of_them(), self.loop)
        return [
            _answer(line, {"status_code": status, "body": body}, None)
            for line, (status, body) in zip(lines, task.result(), strict=True)
        ]

    def _end(self, batch: Record, entries: Sequence[Any], total: int, end: str) -> None:
        """Make the two files, then say how the batch has ended."""
        if batch.status == "cancelling":
            end = "cancelled"
        good = [entry for entry in entries if _is_good(entry)]
        bad = [entry for entry in entries if not _is_good(entry)]
        files = {
            f"{name}_file_id": self._file(batch, name, some)
            for name, some in (("output", good), ("error", bad))
            if some
        }
        Batches(self.desk).lead(batch.id, end, request_counts=_counts(entries, total), **files)

    def _file(self, batch: Record, name: str, entries: Sequence[Mapping[str, Any]]) -> str:
        own = f"file-{sha256(f'{batch.id}/{name}'.encode()).hexdigest()[:24]}"
        kept = [{key: value for key, value in e.items() if key != "at"} for e in entries]
        source = io.BytesIO("".join(json.dumps(entry) + "\n" for entry in kept).encode())
        return self.desk.files.add(source, f"{batch.id}_{name}.jsonl", "batch_output", own).id


def _line(
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


def _answer(line: Mapping[str, Any], response: Any, error: Any) -> dict[str, Any]:
    if response:
        response = {"request_id": f"req_{token_hex(16)}", **response}
    own = f"batch_req_{token_hex(12)}"
    return {"id": own, "custom_id": line["custom_id"], "response": response, "error": error}


def _is_good(entry: Mapping[str, Any]) -> bool:
    return bool(entry["response"]) and entry["response"]["status_code"] == 200


def _counts(entries: Sequence[Mapping[str, Any]], total: int) -> dict[str, int]:
    good = sum(_is_good(entry) for entry in entries)
    return {"total": total, "completed": good, "failed": len(entries) - good}


def _fault(code: str, message: str, line: int | None) -> dict[str, Any]:
    return {"code": code, "message": message, "line": line, "param": None}
