"""The server-sent events of a streamed response."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NotRequired, Protocol

from typing_extensions import TypedDict

from burnish.serve.inference.tool_calls import AnswerParser, ParsedAnswer
from burnish.serve.responses.protocol import (
    FileCitation,
    FileSearchItem,
    ItemStatus,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ResponseObject,
)


class SequencedEvent(TypedDict):
    """An event; its number in the stream is added when it is sent."""

    sequence_number: NotRequired[int]


class StatusEvent(SequencedEvent):
    """A response begins, or ends."""

    type: Literal[
        "response.created", "response.in_progress", "response.completed", "response.incomplete"
    ]
    response: ResponseObject


class ErrorEvent(SequencedEvent):
    """A response fails."""

    type: Literal["error"]
    message: str
    param: str | None
    code: str | None


class ItemEvent(SequencedEvent):
    """An output item begins, or ends."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class ItemPosition(SequencedEvent):
    """The item that an event belongs to."""

    item_id: str
    output_index: int


class FileSearchEvent(ItemPosition):
    """A file search advances."""

    type: Literal[
        "response.file_search_call.in_progress",
        "response.file_search_call.searching",
        "response.file_search_call.completed",
    ]


class ArgumentsDeltaEvent(ItemPosition):
    """The arguments of a function call grow."""

    type: Literal["response.function_call_arguments.delta"]
    delta: str


class ArgumentsDoneEvent(ItemPosition):
    """The arguments of a function call are complete."""

    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str


class ContentPosition(ItemPosition):
    """The part of the item's content that an event belongs to."""

    content_index: int


class ContentPartEvent(ContentPosition):
    """A part of a message begins, or ends."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    part: OutputText


class TextDeltaEvent(ContentPosition):
    """The text of a message grows."""

    type: Literal["response.output_text.delta"]
    delta: str
    logprobs: list[Any]


class TextDoneEvent(ContentPosition):
    """The text of a message is complete."""

    type: Literal["response.output_text.done"]
    text: str
    logprobs: list[Any]


class AnnotationEvent(ContentPosition):
    """The text of a message has a citation."""

    type: Literal["response.output_text.annotation.added"]
    annotation_index: int
    annotation: FileCitation


class ReasoningDeltaEvent(ContentPosition):
    """The reasoning grows."""

    type: Literal["response.reasoning_text.delta"]
    delta: str


class ReasoningDoneEvent(ContentPosition):
    """The reasoning is complete."""

    type: Literal["response.reasoning_text.done"]
    text: str


ResponseEvent = (
    StatusEvent
    | ErrorEvent
    | ItemEvent
    | FileSearchEvent
    | ArgumentsDeltaEvent
    | ArgumentsDoneEvent
    | ContentPartEvent
    | TextDeltaEvent
    | TextDoneEvent
    | AnnotationEvent
    | ReasoningDeltaEvent
    | ReasoningDoneEvent
)


class ItemBuilder(Protocol):
    """Builds the output items of one response."""

    message_id: str
    reasoning_id: str

    def message_item(self, text: str | None, status: ItemStatus) -> MessageItem:
        """Return the message; without text (None) it has no content yet."""

    def reasoning_item(self, text: str, status: ItemStatus) -> ReasoningItem:
        """Return the reasoning."""


class EventWriter:
    """Yields the events of an answer as it is generated: its reasoning, then its text."""

    def __init__(self, builder: ItemBuilder, with_calls: bool, first_index: int) -> None:
        self.builder, self.parser = builder, AnswerParser(with_calls)
        self.index = first_index
        self.has_reasoning = self.has_text = False

    def events_for(self, piece: str, parsed: ParsedAnswer | None) -> Iterator[ResponseEvent]:
        """Yield the events of one more piece of text; `parsed` comes with the last piece."""
        reasoning, text = self.parser.feed(piece)
        if parsed:
            more_reasoning, rest = self.parser.end()
            reasoning, text = reasoning + more_reasoning, text + ("" if parsed.calls else rest)
        if reasoning:
            yield from self._reasoning_events(reasoning)
        if text or (parsed and not parsed.calls):
            yield from self._text_events(text)

    def _reasoning_events(self, text: str) -> Iterator[ResponseEvent]:
        if not self.has_reasoning:
            self.has_reasoning = True
            item = self.builder.reasoning_item("", "in_progress")
            yield {"type": "response.output_item.added", "output_index": self.index, "item": item}
        yield {
            "type": "response.reasoning_text.delta",
            "item_id": self.builder.reasoning_id,
            "output_index": self.index,
            "content_index": 0,
            "delta": text,
        }

    def _text_events(self, text: str) -> Iterator[ResponseEvent]:
        index, item_id = self.index + self.has_reasoning, self.builder.message_id
        if not self.has_text:
            self.has_text = True
            item = self.builder.message_item(None, "in_progress")
            yield {"type": "response.output_item.added", "output_index": index, "item": item}
            yield {
                "type": "response.content_part.added",
                "item_id": item_id,
                "output_index": index,
                "content_index": 0,
                "part": output_text(""),
            }
        if text:
            yield {
                "type": "response.output_text.delta",
                "item_id": item_id,
                "output_index": index,
                "content_index": 0,
                "delta": text,
                "logprobs": [],
            }


def output_text(text: str, citations: Sequence[FileCitation] = ()) -> OutputText:
    """Return the content of a message."""
    return {"type": "output_text", "text": text, "annotations": list(citations), "logprobs": []}


def search_events(items: Sequence[FileSearchItem]) -> Iterator[ResponseEvent]:
    """Yield the events of file searches, which are over before the model begins."""
    for index, item in enumerate(items):
        opened: FileSearchItem = {**item, "status": "in_progress", "results": None}
        position: ItemPosition = {"item_id": item["id"], "output_index": index}
        yield {"type": "response.output_item.added", "output_index": index, "item": opened}
        yield {"type": "response.file_search_call.in_progress", **position}
        yield {"type": "response.file_search_call.searching", **position}
        yield {"type": "response.file_search_call.completed", **position}
        yield {"type": "response.output_item.done", "output_index": index, "item": item}


def closing_events(output: Sequence[OutputItem]) -> Iterator[ResponseEvent]:
    """Yield the events that end the reasoning and the message, and those of the calls."""
    for index, item in enumerate(output):
        if item["type"] == "file_search_call":
            continue
        position: ItemPosition = {"item_id": item["id"], "output_index": index}
        content: ContentPosition = {**position, "content_index": 0}
        if item["type"] == "reasoning":
            text = item["content"][0]["text"]
            yield {"type": "response.reasoning_text.done", **content, "text": text}
        elif item["type"] == "message":
            (part,) = item["content"]
            for number, citation in enumerate(part["annotations"]):
                yield {
                    "type": "response.output_text.annotation.added",
                    **content,
                    "annotation_index": number,
                    "annotation": citation,
                }
            yield {
                "type": "response.output_text.done",
                **content,
                "text": part["text"],
                "logprobs": [],
            }
            yield {"type": "response.content_part.done", **content, "part": part}
        else:
            arguments = item["arguments"]
            yield {
                "type": "response.output_item.added",
                "output_index": index,
                "item": {**item, "status": "in_progress", "arguments": ""},
            }
            yield {
                "type": "response.function_call_arguments.delta",
                **position,
                "delta": arguments,
            }
            yield {
                "type": "response.function_call_arguments.done",
                **position,
                "name": item["name"],
                "arguments": arguments,
            }
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
