"""`client.responses`: chats whose answers are kept, so that a later request can continue one."""

import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from burnish.core.errors import BurnishError
from burnish.core.records import Answer
from burnish.serve.errors import burnish_error_body
from burnish.serve.inference.protocol import ChatRequest
from burnish.serve.inference.service import InferenceService
from burnish.serve.inference.stream import ResponseStream
from burnish.serve.inference.tool_calls import ParsedAnswer, parse_answer
from burnish.serve.responses.events import (
    ErrorEvent,
    EventWriter,
    ResponseEvent,
    closing_events,
    output_text,
    search_events,
)
from burnish.serve.responses.file_search import FileSearchCall, search_stores
from burnish.serve.responses.protocol import (
    CreateResponse,
    FileSearchItem,
    FunctionCallItem,
    ItemStatus,
    MessageItem,
    OutputItem,
    ReasoningItem,
    ResponseObject,
    ResponseStatus,
    ResponseUsage,
)
from burnish.serve.store.schema import StoredObject
from burnish.serve.store.workspace import Workspace
from burnish.serve.vector_stores.service import VectorStores

_KIND = "response"
#: Fields of a request that its response does not repeat.
_HIDDEN_FIELDS = {"input", "stream", "include"}
#: Fields of a response that are never the client's.
_OWN_FIELDS = {
    "id", "object", "created_at", "status", "incomplete_details", "output", "store", "usage",
}  # fmt: skip


@dataclass(slots=True)
class ResponseBuilder:
    """Builds one response. `items` is the whole conversation; `search` its file search, if any."""

    request: CreateResponse
    items: Sequence[dict[str, Any]]
    search: FileSearchCall | None = None
    id: str = field(default_factory=lambda: f"resp_{token_hex(24)}")
    message_id: str = field(default_factory=lambda: f"msg_{token_hex(24)}")
    reasoning_id: str = field(default_factory=lambda: f"rs_{token_hex(24)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def body(
        self,
        status: ResponseStatus,
        answer: Answer | None = None,
        output: Sequence[OutputItem] = (),
    ) -> ResponseObject:
        """Build the response; without an `answer` it is still in progress."""
        request = self.request
        body = ResponseObject(
            id=self.id,
            created_at=self.created,
            model=request.model,
            status=status,
            incomplete_details={"reason": "max_output_tokens"} if status == "incomplete" else None,
            output=list(output),
            usage=_usage(answer) if answer else None,
            store=request.store is not False,
        )
        hidden = _HIDDEN_FIELDS | _OWN_FIELDS
        repeated = request.model_dump(by_alias=True, exclude_unset=True, exclude=hidden)
        return body.model_copy(update=repeated)

    def parse(self, answer: Answer) -> ParsedAnswer:
        """Split an answer into reasoning, text and calls."""
        request = self.request
        tools = () if request.tool_choice == "none" else request.functions
        return parse_answer(answer.text, {tool.name for tool in tools})

    def output(self, parsed: ParsedAnswer, status: ItemStatus) -> list[OutputItem]:
        """Return the output items: search, reasoning, message, calls."""
        items: list[OutputItem] = [*self.search_items]
        if parsed.reasoning:
            items.append(self.reasoning_item(parsed.reasoning, status))
        if parsed.text or not parsed.calls:
            items.append(self.message_item(parsed.text, status))
        for call in parsed.calls:
            item: FunctionCallItem = {
                "id": f"fc_{token_hex(24)}",
                "type": "function_call",
                "call_id": call["id"],
                "status": status,
                **call["function"],
            }
            items.append(item)
        return items

    @property
    def search_items(self) -> list[FileSearchItem]:
        """The item of the file search, if there was one."""
        with_results = "file_search_call.results" in (self.request.include or ())
        return [self.search.item(with_results)] if self.search else []

    def reasoning_item(self, text: str, status: ItemStatus) -> ReasoningItem:
        """Return the item of the reasoning."""
        return {
            "id": self.reasoning_id,
            "type": "reasoning",
            "status": status,
            "summary": [],
            "content": [{"type": "reasoning_text", "text": text}] if text else [],
        }

    def message_item(self, text: str | None, status: ItemStatus) -> MessageItem:
        """Return the item of the message; without text (None) it has no content yet."""
        citations = self.search.citations(text or "") if self.search else []
        return {
            "id": self.message_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [] if text is None else [output_text(text, citations)],
        }


@dataclass(frozen=True, slots=True)
class ResponseService:
    """Creates, reads and deletes responses."""

    inference: InferenceService
    workspace: Workspace
    vector_stores: VectorStores

    async def create(
        self, request: CreateResponse, http: Request
    ) -> ResponseObject | AsyncIterator[str] | None:
        """Answer a request: a body, a stream of events, or None if the client has gone."""
        history = await run_in_threadpool(self._load_history, request)
        builder = ResponseBuilder(request, [*history, *request.items])
        chat = _as_chat_request(builder)
        builder.search = await run_in_threadpool(
            search_stores, self.vector_stores, request.searches, builder.items
        )
        passages = builder.search.passages if builder.search else ()
        stream = await self.inference.start(chat, passages)
        if request.stream:
            return self._stream_events(builder, stream)
        answers = await stream.answers(http)
        if answers is None:
            return None
        (answer,) = answers
        output = builder.output(builder.parse(answer), _status(answer))
        return await self._store(builder, answer, output)

    def find(self, name: str) -> dict[str, Any]:
        """Return a kept response as it was sent. Raises ObjectNotFound."""
        return dict(self.workspace.objects.find(_KIND, name).body["response"])

    def delete(self, name: str) -> None:
        """Delete a kept response. Raises ObjectNotFound."""
        self.workspace.objects.delete(_KIND, name)

    def _load_history(self, request: CreateResponse) -> list[dict[str, Any]]:
        """Return the conversation up to the response that this one follows."""
        if request.previous_response_id is None:
            return []
        return list(self.workspace.objects.find(_KIND, request.previous_response_id).body["items"])

    async def _store(
        self, builder: ResponseBuilder, answer: Answer, output: list[OutputItem]
    ) -> ResponseObject:
        """Build the finished response, and keep it unless `store` is false."""
        response = builder.body(_status(answer), answer, output)
        if builder.request.store is not False:
            kept = {"response": _json_body(response), "items": [*builder.items, *output]}
            record = StoredObject(
                id=builder.id, kind=_KIND, created_at=builder.created, status="kept", body=kept
            )
            await run_in_threadpool(self.workspace.objects.add, record)
        return response

    async def _stream_events(
        self, builder: ResponseBuilder, stream: ResponseStream
    ) -> AsyncIterator[str]:
        """Yield numbered server-sent events; an answer whose reader leaves is given up."""
        number = 0
        try:
            async for event in self._events(builder, stream):
                event["sequence_number"] = number
                number += 1
                data = json.dumps(event, default=_json_body)
                yield f"event: {event['type']}\ndata: {data}\n\n"
        finally:
            stream.cancel()

    async def _events(
        self, builder: ResponseBuilder, stream: ResponseStream
    ) -> AsyncIterator[ResponseEvent]:
        """Yield the events of a response, from `response.created` to its end."""
        yield {"type": "response.created", "response": builder.body("in_progress")}
        yield {"type": "response.in_progress", "response": builder.body("in_progress")}
        for event in search_events(builder.search_items):
            yield event
        with_calls, first_index = bool(builder.request.functions), len(builder.search_items)
        writer = EventWriter(builder, with_calls, first_index)
        async for _, update in stream.updates():
            if update.error:
                yield _error_event(update.error)
                return
            parsed = builder.parse(update.answer) if update.answer else None
            for event in writer.events_for(update.text, parsed):
                yield event
            if not (update.answer and parsed):
                continue
            output = builder.output(parsed, _status(update.answer))
            for event in closing_events(output):
                yield event
            try:
                response = await self._store(builder, update.answer, output)
            except BurnishError as error:  # it cannot be kept, and the stream has long begun
                yield _error_event(error)
                return
            if response.status == "incomplete":
                yield {"type": "response.incomplete", "response": response}
            else:
                yield {"type": "response.completed", "response": response}


def _as_chat_request(builder: ResponseBuilder) -> ChatRequest:
    """Build the chat; its faults are reported as faults of the request."""
    try:
        return builder.request.as_chat(builder.items)
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults) from error


def _json_body(value: BaseModel) -> dict[str, Any]:
    return value.model_dump(mode="json", warnings=False)


def _error_event(error: BurnishError) -> ErrorEvent:
    details = burnish_error_body(error)["error"]
    return {
        "type": "error",
        "message": details["message"],
        "param": details["param"],
        "code": details["code"],
    }


def _status(answer: Answer) -> ItemStatus:
    return "incomplete" if answer.finish_reason == "length" else "completed"


def _usage(answer: Answer) -> ResponseUsage:
    return {
        "input_tokens": answer.tokens_in,
        "input_tokens_details": {"cached_tokens": answer.tokens_cached},
        "output_tokens": answer.tokens_out,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer.tokens_in + answer.tokens_out,
    }
