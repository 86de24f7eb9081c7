"""`client.responses`: a chat whose answer is kept, so that the next question can go on from it."""

import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError

from burnish.core.errors import BurnishError
from burnish.core.records import Answer
from burnish.serve.errors import burnish_error_body as error_of
from burnish.serve.inference.protocol import ChatRequest
from burnish.serve.inference.service import CLIENT_GONE, InferenceService
from burnish.serve.inference.stream import ResponseStream
from burnish.serve.inference.tool_calls import AnswerParser, ParsedAnswer, parse_answer
from burnish.serve.responses.file_search import FileSearchCall, search_stores
from burnish.serve.responses.protocol import CreateResponse
from burnish.serve.store.schema import StoredObject
from burnish.serve.store.workspace import Workspace
from burnish.serve.vector_stores.service import VectorStores

_KIND = "response"
_HIDDEN_FIELDS = {"input", "stream", "include"}


@dataclass(slots=True)
class ResponseBuilder:
    """One response in the making: `items` are all that was said before it.

    `searched` is what was looked for in vector stores, if the client wants that.
    """

    request: CreateResponse
    items: Sequence[dict[str, Any]]
    search: FileSearchCall | None = None
    id: str = field(default_factory=lambda: f"resp_{token_hex(24)}")
    message_id: str = field(default_factory=lambda: f"msg_{token_hex(24)}")
    reasoning_id: str = field(default_factory=lambda: f"rs_{token_hex(24)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def body(self, status: str, answer: Answer | None = None, output: Any = ()) -> dict[str, Any]:
        """The response as clients read it; `status` without an answer is where it stands."""
        asked = self.request
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        shown = asked.model_dump(by_alias=True, exclude_unset=True, exclude=_HIDDEN_FIELDS)
        return {
            "error": None,
            "instructions": None,
            "max_output_tokens": None,
            "metadata": {},
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "temperature": 1.0,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "truncation": "disabled",
            **shown,
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "incomplete_details": cut,
            "output": list(output),
            "store": asked.store is not False,
            "usage": _usage(answer) if answer else None,
        }

    def parse(self, answer: Answer) -> ParsedAnswer:
        """Words and calls of an answer."""
        asked = self.request
        tools = () if asked.tool_choice == "none" else asked.functions
        return parse_answer(answer.text, {tool.name for tool in tools})

    def output(self, said: ParsedAnswer, status: str) -> list[dict[str, Any]]:
        """The items of an answer, behind the search that was made for it."""
        thoughts = [self.reasoning_item(said.reasoning, status)] if said.reasoning else []
        words = [self.message_item(said.text, status)] if said.text or not said.calls else []
        return [*self.search_items, *thoughts, *words] + [
            {"id": f"fc_{token_hex(24)}", "type": "function_call", "call_id": call["id"],
             "status": status, **call["function"]}
            for call in said.calls
        ]  # fmt: skip

    @property
    def search_items(self) -> list[dict[str, Any]]:
        """The item of the search, if there was one."""
        wants_results = "file_search_call.results" in (self.request.include or ())
        return [self.search.item(wants_results)] if self.search else []

    def reasoning_item(self, text: str, status: str) -> dict[str, Any]:
        """The item of what was thought before the answer."""
        content = [{"type": "reasoning_text", "text": text}] if text else []
        return {"id": self.reasoning_id, "type": "reasoning", "status": status, "summary": [],
                "content": content}  # fmt: skip

    def message_item(self, text: str | None, status: str) -> dict[str, Any]:
        """The item of a message; None is one that has no text yet."""
        cited = self.search.citations(text or "") if self.search else []
        content = [] if text is None else [_output_text(text, cited)]
        return {"id": self.message_id, "type": "message", "status": status, "role": "assistant",
                "content": content}  # fmt: skip


def response_routes(service: InferenceService, vectors: VectorStores) -> APIRouter:
    """Ask, and look up or delete what was answered."""
    router, desk = APIRouter(prefix="/responses"), vectors.workspace
    keeper = _ResponseService(service, desk, vectors)

    @router.post("", summary="Answer, streamed or not, and keep the answer")
    async def create_response(request: CreateResponse, http: Request) -> Response:
        return await keeper.create(request, http)

    @router.get("/{name}", summary="An answer that was kept")
    def get_response(name: str) -> dict[str, Any]:
        return dict(desk.objects.find(_KIND, name).body["response"])

    @router.delete("/{name}", summary="Forget an answer")
    def delete_response(name: str) -> dict[str, Any]:
        desk.objects.delete(_KIND, name)
        return {"id": name, "object": "response.deleted", "deleted": True}

    return router


@dataclass(frozen=True, slots=True)
class _ResponseService:
    service: InferenceService
    workspace: Workspace
    stores: VectorStores

    async def create(self, request: CreateResponse, http: Request) -> Response:
        before = await run_in_threadpool(self._load_history, request)
        making = ResponseBuilder(request, [*before, *request.items])
        chat = _as_chat_request(making)
        making.search = await run_in_threadpool(
            search_stores, self.stores, request.searches, making.items
        )
        passages = making.search.passages if making.search else ()
        exchange = await self.service.start(chat, passages)
        if request.stream:
            headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
            events = _cancel_on_exit(self._stream_events(making, exchange), exchange)
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        answers = await exchange.answers(http)
        if answers is None:
            return Response(status_code=CLIENT_GONE)
        said, status = making.parse(answers[0]), _status(answers[0])
        return JSONResponse(
            await self._store_response(making, answers[0], making.output(said, status))
        )

    def _load_history(self, request: CreateResponse) -> list[dict[str, Any]]:
        """All that was said up to the response that this one follows."""
        if request.previous_response_id is None:
            return []
        return list(self.workspace.objects.find(_KIND, request.previous_response_id).body["items"])

    async def _store_response(
        self, builder: ResponseBuilder, answer: Answer, output: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """The finished body; in the store too, unless the client wants otherwise."""
        body = builder.body(_status(answer), answer, output)
        if builder.request.store is not False:
            kept = {"response": body, "items": [*builder.items, *output]}
            record = StoredObject(
                id=builder.id, kind=_KIND, created_at=builder.created, status="kept", body=kept
            )
            size = len(json.dumps(record.body))
            await run_in_threadpool(self.workspace.objects.add, record, size)
        return body

    async def _stream_events(
        self, builder: ResponseBuilder, exchange: ResponseStream
    ) -> AsyncIterator[str]:
        """What happens to a response, from `response.created` to its end."""
        number = 0

        def event(kind: str, **fields: Any) -> str:
            nonlocal number
            body = {**fields, "type": kind, "sequence_number": number}
            number += 1
            return f"event: {kind}\ndata: {json.dumps(body)}\n\n"

        yield event("response.created", response=builder.body("in_progress"))
        yield event("response.in_progress", response=builder.body("in_progress"))
        for kind, fields in _search_events(builder.search_items):
            yield event(kind, **fields)
        telling = _EventWriter(builder)
        async for _, news in exchange.updates():
            if news.error:
                yield event("error", **error_of(news.error)["error"])
                return
            said = builder.parse(news.answer) if news.answer else None
            for kind, fields in telling.events_for(news.text, said):
                yield event(kind, **fields)
            if not (news.answer and said):
                continue
            output = builder.output(said, _status(news.answer))
            for kind, fields in _closing_events(output):
                yield event(kind, **fields)
            try:
                body = await self._store_response(builder, news.answer, output)
            except BurnishError as error:  # no room to keep it: the stream has begun long since
                yield event("error", **error_of(error)["error"])
                return
            yield event(f"response.{body['status']}", response=body)


class _EventWriter:
    """The events of an answer as it is made: first of its thought, if it has one, then of its
    words."""

    def __init__(self, making: ResponseBuilder) -> None:
        self.builder, self.parser = making, AnswerParser(bool(making.request.functions))
        self.index = len(making.search_items)
        self.has_reasoning = self.has_text = False

    def events_for(
        self, piece: str, said: ParsedAnswer | None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """What one more piece brings; with `said`, the last one."""
        thought, words = self.parser.feed(piece)
        if said:
            more, rest = self.parser.end()
            thought, words = thought + more, words + ("" if said.calls else rest)
        if thought:
            yield from self._reasoning_events(thought)
        if words or (said and not said.calls):
            yield from self._text_events(words)

    def _reasoning_events(self, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if not self.has_reasoning:
            self.has_reasoning = True
            item = self.builder.reasoning_item("", "in_progress")
            yield "response.output_item.added", {"output_index": self.index, "item": item}
        place = {
            "item_id": self.builder.reasoning_id,
            "output_index": self.index,
            "content_index": 0,
        }
        yield "response.reasoning_text.delta", {**place, "delta": text}

    def _text_events(self, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
        index = self.index + self.has_reasoning
        place = {"item_id": self.builder.message_id, "output_index": index, "content_index": 0}
        if not self.has_text:
            self.has_text = True
            item = self.builder.message_item(None, "in_progress")
            yield "response.output_item.added", {"output_index": index, "item": item}
            yield "response.content_part.added", {**place, "part": _output_text("")}
        if text:
            yield "response.output_text.delta", {**place, "delta": text, "logprobs": []}


async def _cancel_on_exit(
    events: AsyncIterator[str], exchange: ResponseStream
) -> AsyncIterator[str]:
    """The events; when their reader leaves, the answer is given up."""
    try:
        async for event in events:
            yield event
    finally:
        exchange.cancel()


def _search_events(items: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The events of searches, which are over before the model begins."""
    events: list[tuple[str, dict[str, Any]]] = []
    for index, item in enumerate(items):
        own = {"item_id": item["id"], "output_index": index}
        opened = {**item, "status": "in_progress", "results": None}
        kind = "response.file_search_call"
        events += [
            ("response.output_item.added", {"output_index": index, "item": opened}),
            *((f"{kind}.{state}", own) for state in ("in_progress", "searching", "completed")),
            ("response.output_item.done", {"output_index": index, "item": item}),
        ]
    return events


def _closing_events(output: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The events that close the message and bring the calls."""
    events: list[tuple[str, dict[str, Any]]] = []
    for index, item in enumerate(output):
        if item["type"] == "file_search_call":
            continue
        own = {"item_id": item["id"], "output_index": index}
        done = ("response.output_item.done", {"output_index": index, "item": item})
        if item["type"] == "reasoning":
            text = item["content"][0]["text"]
            ended = ("response.reasoning_text.done", {**own, "content_index": 0, "text": text})
            events += [ended, done]
            continue
        if item["type"] == "message":
            place, (part,) = {**own, "content_index": 0}, item["content"]
            events += [
                ("response.output_text.annotation.added",
                 {**place, "annotation_index": number, "annotation": one})
                for number, one in enumerate(part["annotations"])
            ]  # fmt: skip
            events += [
                ("response.output_text.done", {**place, "text": part["text"], "logprobs": []}),
                ("response.content_part.done", {**place, "part": part}),
                done,
            ]
            continue
        opened = {**item, "status": "in_progress", "arguments": ""}
        kind, arguments = "response.function_call_arguments", item["arguments"]
        events += [
            ("response.output_item.added", {"output_index": index, "item": opened}),
            (f"{kind}.delta", {**own, "delta": arguments}),
            (f"{kind}.done", {**own, "name": item["name"], "arguments": arguments}),
            done,
        ]
    return events


def _as_chat_request(builder: ResponseBuilder) -> ChatRequest:
    """The chat that is meant; its faults are faults of the request."""
    try:
        return builder.request.as_chat(builder.items)
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults) from error


def _output_text(text: str, annotations: Sequence[Any] = ()) -> dict[str, Any]:
    return {
        "type": "output_text",
        "text": text,
        "annotations": list(annotations),
        "logprobs": [],
    }


def _status(answer: Answer) -> str:
    return "incomplete" if answer.finish_reason == "length" else "completed"


def _usage(answer: Answer) -> dict[str, Any]:
    return {
        "input_tokens": answer.tokens_in,
        "input_tokens_details": {"cached_tokens": answer.tokens_cached},
        "output_tokens": answer.tokens_out,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer.tokens_in + answer.tokens_out,
    }
