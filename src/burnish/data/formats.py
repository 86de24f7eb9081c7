"""The shapes that rows come in, each a pure function from one record to one `Row`.

The table FORMATS is the only list: detection, errors and the docs read it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from burnish.core.errors import BadData
from burnish.core.images import BadImage, Image, image_from_data_url, join_parts
from burnish.core.reasoning import split_reasoning
from burnish.core.recipe.data import Columns
from burnish.core.records import Message, Role, Row
from burnish.data.images import as_bad_row, image_url_of
from burnish.data.spans import BadRow, has_spans, has_tags, row_from_spans, row_from_tags

Record = Mapping[str, Any]

#: What other tools call the roles.
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "function": "tool"}


@dataclass(frozen=True, slots=True)
class RowFormat:
    """One shape: how to see it by the keys, how to read it, and a line of it for the docs."""

    fits: Callable[[set[str], Columns], bool]
    convert: Callable[[Record, Columns], Row]
    example: str


def chat(record: Record, columns: Columns) -> Row:
    """OpenAI's chat lines: `messages` with roles, optional `weight`, `name`, `tools`."""
    if "messages" not in record or not isinstance(record["messages"], list):
        raise BadRow("there is no list `messages`", 'Write {"messages": [...]}.')
    messages = tuple(_message(entry) for entry in record["messages"])
    return Row(
        messages=_with_system(messages, record, columns),
        tools=_tools(record),
        item=_extra_fields(record, ("messages", "tools")),
    )


def sharegpt(record: Record, columns: Columns) -> Row:
    """ShareGPT: `conversations` of `from` and `value`."""
    turns = record.get("conversations")
    if not isinstance(turns, list):
        raise BadRow("there is no list `conversations`")
    messages = tuple(
        _message({"role": turn.get("from"), "content": turn.get("value")})
        if isinstance(turn, Mapping)
        else _message(turn)
        for turn in turns
    )
    return Row(messages=_with_system(messages, record, columns))


def pairs(record: Record, columns: Columns) -> Row:
    """A prompt and its completion."""
    prompt = _pick(record, columns.prompt, _PROMPTS)
    return _single_turn_row(
        record, columns, prompt, _pick(record, columns.completion, _COMPLETIONS)
    )


def prompts(record: Record, columns: Columns) -> Row:
    """A question alone, for a teacher to answer."""
    asked = _pick(record, columns.prompt, _PROMPTS)
    messages = _with_system((Message("user", asked),), record, columns)
    return Row(messages=messages, item=_extra_fields(record, _PROMPTS))


def alpaca(record: Record, columns: Columns) -> Row:
    """Instruction, optional input, output."""
    instruction = _pick(record, columns.prompt, ("instruction",))
    given = record.get("input")
    prompt = f"{instruction}\n\n{given}" if given else instruction
    return _single_turn_row(record, columns, prompt, _pick(record, columns.completion, ("output",)))


def openai_preference(record: Record, columns: Columns) -> Row:
    """OpenAI's preference lines: `input` with messages, a preferred and a non-preferred output."""
    given = record.get("input")
    if not isinstance(given, Mapping) or not isinstance(given.get("messages"), list):
        raise BadRow(
            "there is no `input` with a list `messages`", 'Write "input": {"messages": [...]}.'
        )
    sides = [record.get(key) for key in ("preferred_output", "non_preferred_output")]
    return _preference_row(given["messages"], sides, given, columns)


def preference(record: Record, columns: Columns) -> Row:
    """TRL's preference rows: `prompt`, `chosen` and `rejected`, as texts or as messages.

    Without a prompt, it is what both conversations begin with.
    """
    prompt = record.get(columns.prompt or "prompt")
    sides = [record.get(columns.chosen or "chosen"), record.get(columns.rejected or "rejected")]
    if all(isinstance(side, list) and len(side) > 1 for side in sides):
        before, other = (list(side)[:-1] for side in sides if side)
        if before != other:
            raise BadRow(
                "the two conversations differ before their last turn",
                "Let both begin with the same turns; only the last answer is compared.",
            )
        prompt, sides = before, [side[-1:] for side in sides if side]
    return _preference_row(prompt, sides, record, columns)


def unpaired_preference(record: Record, columns: Columns) -> Row:
    """TRL's unpaired rows (for KTO): `prompt`, `completion`, and `label` true or false."""
    label = _TRUTHS.get(str(record.get(columns.label or "label")).lower())
    if label is None:
        raise BadRow(
            f"the label is {record.get(columns.label or 'label')!r}, not true or false",
            "Write true or false; or say what the rows are: data.format=labelled, or =pairs.",
        )
    answer = _answer_message(record.get(columns.completion or "completion"), "completion")
    prompt = _context_messages(record.get(columns.prompt or "prompt"))
    messages = _with_system((*prompt, answer), record, columns)
    return Row(messages=messages, desirable=label, tools=_tools(record))


def _preference_row(prompt: Any, sides: Sequence[Any], record: Record, columns: Columns) -> Row:
    chosen = _answer_message(sides[0], "preferred answer")
    rejected = _answer_message(sides[1], "rejected answer")
    messages = _with_system((*_context_messages(prompt), chosen), record, columns)
    return Row(messages=messages, rejected=rejected, tools=_tools(record))


def _context_messages(prompt: Any) -> tuple[Message, ...]:
    """The turns before an answer that is judged: context, so none of them is learnt."""
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    if not isinstance(prompt, list) or not prompt:
        raise BadRow("there is no prompt", "Write it as a text or as a list of messages.")
    return tuple(
        replace(message, weight=0.0) if message.role == "assistant" else message
        for message in map(_message, prompt)
    )


def _answer_message(side: Any, name: str) -> Message:
    """One answer, from its text or from a list of one message."""
    if isinstance(side, str):
        return _assistant_message(side)
    if isinstance(side, list) and len(side) == 1:
        message = _message(side[0])
        if message.role == "assistant":
            return replace(message, weight=1.0)
    if side is None:
        raise BadRow(f"there is no {name}", "Add it, or drop the row.")
    raise BadRow(
        f"the {name} is not one assistant message", "Put the turns before it into the prompt."
    )


def labeled(record: Record, columns: Columns) -> Row:
    """A text and its class."""
    label = _pick(record, columns.label, _LABELS)
    row = _single_turn_row(
        record, columns, _pick(record, columns.prompt, (*_PROMPTS, "text")), label
    )
    return Row(messages=row.messages, label=label)


def text(record: Record, columns: Columns) -> Row:
    """Plain text, learnt whole."""
    return Row(text=_pick(record, columns.text, ("text",)))


_PROMPTS = ("prompt", "question", "query")
_COMPLETIONS = ("completion", "answer", "response")
_LABELS = ("label", "category", "intent", "class")
#: Keys that hold an answer in some shape; a row with one of them isn't a question alone.
_ANSWERED = {*_COMPLETIONS, *_LABELS, "output", "chosen", "rejected", "text"}
_TRUTHS = {"true": True, "false": False}

FORMATS: dict[str, RowFormat] = {
    "chat": RowFormat(
        lambda keys, columns: "messages" in keys,
        chat,
        '{"messages": [{"role": "user", "content": "1+1?"}, '
        '{"role": "assistant", "content": "2"}]}',
    ),
    "spans": RowFormat(
        lambda keys, columns: has_spans(keys),
        lambda record, columns: row_from_spans(record),
        '{"text": "Ada lives in Athens", "spans": [{"start": 13, "end": 19, "label": "place"}]}',
    ),
    "tagged": RowFormat(
        lambda keys, columns: has_tags(keys),
        lambda record, columns: row_from_tags(record),
        '{"tokens": ["in", "New", "York"], "tags": ["O", "B-place", "I-place"]}',
    ),
    "openai_preference": RowFormat(
        lambda keys, columns: {"input", "preferred_output"} <= keys,
        openai_preference,
        '{"input": {"messages": [{"role": "user", "content": "1+1?"}]}, "preferred_output": '
        '[{"role": "assistant", "content": "2"}], "non_preferred_output": '
        '[{"role": "assistant", "content": "3"}]}',
    ),
    "preference": RowFormat(
        lambda keys, columns: (
            _has(keys, columns.chosen, ("chosen",)) and _has(keys, columns.rejected, ("rejected",))
        ),
        preference,
        '{"prompt": "1+1?", "chosen": "2", "rejected": "3"}',
    ),
    "unpaired_preference": RowFormat(
        lambda keys, columns: (
            _has(keys, columns.prompt, ("prompt",))
            and _has(keys, columns.completion, ("completion",))
            and _has(keys, columns.label, ("label",))
        ),
        unpaired_preference,
        '{"prompt": "1+1?", "completion": "2", "label": true}',
    ),
    "sharegpt": RowFormat(
        lambda keys, columns: "conversations" in keys,
        sharegpt,
        '{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}',
    ),
    "labelled": RowFormat(
        lambda keys, columns: (
            _has(keys, columns.label, _LABELS)
            and _has(keys, columns.prompt, (*_PROMPTS, "text"))
            and not columns.completion
        ),
        labeled,
        '{"text": "My card is gone", "label": "lost_card"}',
    ),
    "pairs": RowFormat(
        lambda keys, columns: (
            _has(keys, columns.prompt, _PROMPTS) and _has(keys, columns.completion, _COMPLETIONS)
        ),
        pairs,
        '{"prompt": "Capital of Greece?", "completion": "Athens"}',
    ),
    "alpaca": RowFormat(
        lambda keys, columns: {"instruction", "output"} <= keys,
        alpaca,
        '{"instruction": "Translate to French", "input": "bread", "output": "pain"}',
    ),
    "prompts": RowFormat(
        lambda keys, columns: _has(keys, columns.prompt, _PROMPTS) and not keys & _ANSWERED,
        prompts,
        '{"prompt": "Capital of Greece?"}',
    ),
    "text": RowFormat(
        lambda keys, columns: _has(keys, columns.text, ("text",)),
        text,
        '{"text": "Plain text, learnt whole."}',
    ),
}


def detect_format(keys: set[str], columns: Columns) -> str:
    """The format that records with these keys have. Raises BadData if none fits."""
    for name, shape in FORMATS.items():
        if shape.fits(keys, columns):
            return name
    raise BadData(
        f"Rows with the keys {', '.join(sorted(keys)) or '(none)'} have no known shape.",
        "Name the columns: --set data.columns.prompt=... and data.columns.completion=... (or "
        f"data.columns.label=...). Known shapes: {', '.join(FORMATS)}.",
    )


def _single_turn_row(record: Record, columns: Columns, prompt: str, answer: str) -> Row:
    context = _optional(record, columns.context, ("context",))
    asked = f"{context}\n\n{prompt}" if context else prompt
    messages = (Message("user", asked), _assistant_message(answer))
    return Row(messages=_with_system(messages, record, columns))


def _with_system(
    messages: tuple[Message, ...], record: Record, columns: Columns
) -> tuple[Message, ...]:
    system = _optional(record, columns.system, ("system",))
    if not system or (messages and messages[0].role == "system"):
        return messages
    return (Message("system", system), *messages)


def _message(entry: Any) -> Message:
    if not isinstance(entry, Mapping):
        raise BadRow(f"a message is {type(entry).__name__}, not an object with role and content")
    role: Any = _ROLES.get(str(entry.get("role")), entry.get("role"))
    if role not in get_args(Role):
        raise BadRow(
            f"role {entry.get('role')!r} is not system, user, assistant or tool",
            "Correct the role.",
            code="wrong_role",
        )
    calls = entry.get("tool_calls") or ()
    content, pictures = _content(entry.get("content"), allow_none=bool(calls))
    if pictures and role == "assistant":
        raise BadRow("an answer holds a picture", "Only what is asked can hold pictures.")
    thought = ""
    if role == "assistant":
        inside, content = split_reasoning(content)
        thought = inside or str(entry.get("reasoning_content") or "").strip()
    weight = entry.get("weight", 1)
    if weight not in (0, 1):
        raise BadRow(f"weight {weight!r} is not 0 or 1", "Use 0 to leave a turn untrained.")
    return Message(
        role=role,
        content=content,
        weight=float(weight),
        name=entry.get("name"),
        tool_calls=tuple(calls),
        tool_call_id=entry.get("tool_call_id"),
        images=pictures,
        reasoning=thought,
    )


def _assistant_message(answer: str) -> Message:
    """An answer, with the thought that it begins with taken apart."""
    thought, content = split_reasoning(answer)
    return Message("assistant", content, reasoning=thought)


def _content(content: Any, allow_none: bool) -> tuple[str, tuple[Image, ...]]:
    if isinstance(content, list):  # content parts, as the API takes them
        return join_parts(_part(part) for part in content)
    if content is None and allow_none:
        return "", ()
    if not isinstance(content, str):
        raise BadRow(f"a message's content is {type(content).__name__}, not text")
    return content, ()


def _part(part: Any) -> str | Image:
    """One part of a message: its text, or its picture, which may have been read already."""
    if isinstance(part, Image):
        return part
    if isinstance(part, Mapping):
        if isinstance(part.get("text"), str):
            return str(part["text"])
        if isinstance(url := image_url_of(part), str):
            try:
                return image_from_data_url(url)
            except BadImage as error:
                raise as_bad_row(error) from error
    raise BadRow(
        "a message has content that is neither text nor a picture",
        'Write {"type": "text", "text": ...} or {"type": "image_url", "image_url": {"url": ...}}.',
    )


def _tools(record: Record) -> tuple[Mapping[str, Any], ...]:
    tools = record.get("tools") or ()
    if not isinstance(tools, Sequence) or not all(isinstance(tool, Mapping) for tool in tools):
        raise BadRow("`tools` is not a list of objects")
    return tuple(tools)


def _extra_fields(record: Record, said: Sequence[str]) -> Record:
    """What a record holds beside its conversation: what graders look at."""
    return {key: value for key, value in record.items() if key not in said}


def _pick(record: Record, named: str | None, usual: Sequence[str]) -> str:
    found = _optional(record, named, usual)
    if found is None:
        wanted = named or " or ".join(usual)
        raise BadRow(f"there is no `{wanted}`", f"The row has: {', '.join(record)}.")
    return found


def _optional(record: Record, named: str | None, usual: Sequence[str]) -> str | None:
    for key in (named,) if named else usual:
        value = record.get(key)
        if value is not None:
            if isinstance(value, dict | list):
                return json.dumps(value, ensure_ascii=False)
            return str(value)
    return None


def _has(keys: set[str], named: str | None, usual: Sequence[str]) -> bool:
    return named in keys if named else bool(keys & set(usual))
