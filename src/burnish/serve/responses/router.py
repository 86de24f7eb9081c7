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
from burnish.serve.errors import body_of as error_of
from burnish.serve.inference.protocol import ChatRequest
from burnish.serve.inference.service import CLIENT_GONE, House
from burnish.serve.inference.stream import Exchange
from burnish.serve.inference.tool_calls import AnswerWatch, Said, take_apart
from burnish.serve.responses.file_search import Searched, look_up
from burnish.serve.responses.protocol import CreateResponse
from burnish.serve.store.schema import Record
from burnish.serve.store.workspace import Desk
from burnish.serve.vector_stores.service import Vectors

_KIND = "response"
_UNSHOWN = {"input", "stream", "include"}


@dataclass(slots=True)
class Responding:
    """One response in the making: `items` are all that was said before it.

    `searched` is what was looked for in vector stores, if the client wants that.
    """

    asked: CreateResponse
    items: Sequence[dict[str, Any]]
    searched: Searched | None = None
    id: str = field(default_factory=lambda: f"resp_{token_hex(24)}")
    message: str = field(default_factory=lambda: f"msg_{token_hex(24)}")
    reasoning: str = field(default_factory=lambda: f"rs_{token_hex(24)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def body(self, status: str, answer: Answer | None = None, output: Any = ()) -> dict[str, Any]:
        """The response as clients read it; `status` without an answer is where it stands."""
        asked = self.asked
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        shown = asked.model_dump(by_alias=True, exclude_unset=True, exclude=_UNSHOWN)
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

    def said(self, answer: Answer) -> Said:
        """Words and calls of an answer."""
        asked = self.asked
        tools = () if asked.tool_choice == "none" else asked.functions
        return take_apart(answer.text, {tool.name for tool in tools})

    def output(self, said: Said, status: str) -> list[dict[str, Any]]:
        """The items of an answer, behind the search that was made for it."""
        thoughts = [self.thoughts(said.thought, status)] if said.thought else []
        words = [self.words(said.text, status)] if said.text or not said.calls else []
        return [*self.before, *thoughts, *words] + [
            {"id": f"fc_{token_hex(24)}", "type": "function_call", "call_id": call["id"],
             "status": status, **call["function"]}
            for call in said.calls
        ]  # fmt: skip

    @property
    def before(self) -> list[dict[str, Any]]:
        """The item of the search, if there was one."""
        wants_results = "file_search_call.results" in (self.asked.include or ())
        return [self.searched.item(wants_results)] if self.searched else []

    def thoughts(self, text: str, status: str) -> dict[str, Any]:
        """The item of what was thought before the answer."""
        content = [{"type": "reasoning_text", "text": text}] if text else []
        return {"id": self.reasoning, "type": "reasoning", "status": status, "summary": [],
                "content": content}  # fmt: skip

    def words(self, text: str | None, status: str) -> dict[str, Any]:
        """The item of a message; None is one that has no text yet."""
        cited = self.searched.citations(text or "") if self.searched else []
        content = [] if text is None else [_part(text, cited)]
        return {"id": self.message, "type": "message", "status": status, "role": "assistant",
                "content": content}  # fmt: skip


def response_routes(house: House, vectors: Vectors) -> APIRouter:
    """Ask, and look up or delete what was answered."""
    router, desk = APIRouter(prefix="/responses"), vectors.desk
    keeper = _Keeper(house, desk, vectors)

    @router.post("", summary="Answer, streamed or not, and keep the answer")
    async def create(asked: CreateResponse, http: Request) -> Response:
        return await keeper.create(asked, http)

    @router.get("/{name}", summary="An answer that was kept")
    def one(name: str) -> dict[str, Any]:
        return dict(desk.records.find(_KIND, name).body["response"])

    @router.delete("/{name}", summary="Forget an answer")
    def delete(name: str) -> dict[str, Any]:
        desk.records.delete(_KIND, name)
        return {"id": name, "object": "response.deleted", "deleted": True}

    return router


@dataclass(frozen=True, slots=True)
class _Keeper:
    house: House
    desk: Desk
    vectors: Vectors

    async def create(self, asked: CreateResponse, http: Request) -> Response:
        before = await run_in_threadpool(self._before, asked)
        making = Responding(asked, [*before, *asked.items])
        chat = _chat(making)
        making.searched = await run_in_threadpool(
            look_up, self.vectors, asked.searches, making.items
        )
        passages = making.searched.passages if making.searched else ()
        exchange = await self.house.exchange_of(chat, passages)
        if asked.stream:
            headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
            events = _until_left(self._events(making, exchange), exchange)
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        answers = await exchange.answers(http)
        if answers is None:
            return Response(status_code=CLIENT_GONE)
        said, status = making.said(answers[0]), _status(answers[0])
        return JSONResponse(await self._kept(making, answers[0], making.output(said, status)))

    def _before(self, asked: CreateResponse) -> list[dict[str, Any]]:
        """All that was said up to the response that this one follows."""
        if asked.previous_response_id is None:
            return []
        return list(self.desk.records.find(_KIND, asked.previous_response_id).body["items"])

    async def _kept(
        self, making: Responding, answer: Answer, output: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """The finished body; in the store too, unless the client wants otherwise."""
        body = making.body(_status(answer), answer, output)
        if making.asked.store is not False:
            record = Record(id=making.id, kind=_KIND, created_at=making.created, status="kept",
                            body={"response": body, "items": [*making.items, *output]})  # fmt: skip
            size = len(json.dumps(record.body))
            await run_in_threadpool(self.desk.records.add, record, size)
        return body

    async def _events(self, making: Responding, exchange: Exchange) -> AsyncIterator[str]:
        """What happens to a response, from `response.created` to its end."""
        number = 0

        def event(kind: str, **fields: Any) -> str:
            nonlocal number
            body = {**fields, "type": kind, "sequence_number": number}
            number += 1
            return f"event: {kind}\ndata: {json.dumps(body)}\n\n"

        yield event("response.created", response=making.body("in_progress"))
        yield event("response.in_progress", response=making.body("in_progress"))
        for kind, fields in _search_events(making.before):
            yield event(kind, **fields)
        telling = _Telling(making)
        async for _, news in exchange.news():
            if news.error:
                yield event("error", **error_of(news.error)["error"])
                return
            said = making.said(news.answer) if news.answer else None
            for kind, fields in telling.news(news.text, said):
                yield event(kind, **fields)
            if not (news.answer and said):
                continue
            output = making.output(said, _status(news.answer))
            for kind, fields in _ends(output):
                yield event(kind, **fields)
            try:
                body = await self._kept(making, news.answer, output)
            except BurnishError as error:  # no room to keep it: the stream has begun long since
                yield event("error", **error_of(error)["error"])
                return
            yield event(f"response.{body['status']}", response=body)


class _Telling:
    """The events of an answer as it is made: first of its thought, if it has one, then of its
    words."""

    def __init__(self, making: Responding) -> None:
        self.making, self.watch = making, AnswerWatch(bool(making.asked.functions))
        self.index = len(making.before)
        self.thinks = self.speaks = False

    def news(self, piece: str, said: Said | None) -> Iterator[tuple[str, dict[str, Any]]]:
        """What one more piece brings; with `said`, the last one."""
        thought, words = self.watch.feed(piece)
        if said:
            more, rest = self.watch.end()
            thought, words = thought + more, words + ("" if said.calls else rest)
        if thought:
            yield from self._thought(thought)
        if words or (said and not said.calls):
            yield from self._words(words)

    def _thought(self, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if not self.thinks:
            self.thinks = True
            item = self.making.thoughts("", "in_progress")
            yield "response.output_item.added", {"output_index": self.index, "item": item}
        place = {"item_id": self.making.reasoning, "output_index": self.index, "content_index": 0}
        yield "response.reasoning_text.delta", {**place, "delta": text}

    def _words(self, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
        index = self.index + self.thinks
        place = {"item_id": self.making.message, "output_index": index, "content_index": 0}
        if not self.speaks:
            self.speaks = True
            item = self.making.words(None, "in_progress")
            yield "response.output_item.added", {"output_index": index, "item": item}
            yield "response.content_part.added", {**place, "part": _part("")}
        if text:
            yield "response.output_text.delta", {**place, "delta": text, "logprobs": []}


async def _until_left(events: AsyncIterator[str], exchange: Exchange) -> AsyncIterator[str]:
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


def _ends(output: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
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


def _chat(making: Responding) -> ChatRequest:
    """The chat that is meant; its faults are faults of the request."""
    try:
        return making.asked.as_chat(making.items)
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults) from error


def _part(text: str, annotations: Sequence[Any] = ()) -> dict[str, Any]:
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
