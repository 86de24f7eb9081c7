"""The formats of rows, each a pure function from one record to one `Row`.

The table FORMATS is the only list: detection, errors and the docs read it.
"""

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from burnish.core.errors import BadData
from burnish.core.json_text import BadJson, parse_json
from burnish.core.recipe.data import Columns
from burnish.core.records import Message, Row
from burnish.data.calls import call_from_text, tools_of
from burnish.data.messages import message_of, said
from burnish.data.spans import BadRow, has_spans, has_tags, row_from_spans, row_from_tags

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RowFormat:
    """One format: how to recognize it by its keys, how to convert it, and an example line for the
    docs."""

    fits: Callable[[set[str], Columns], bool]
    convert: Callable[[Record, Columns], Row]
    example: str


def chat(record: Record, columns: Columns) -> Row:
    """Convert OpenAI's chat format: `messages` with roles, optional `weight`, `name`, `tools`."""
    if "messages" not in record or not isinstance(record["messages"], list):
        raise BadRow("there is no list `messages`", 'Write {"messages": [...]}.')
    messages = tuple(message_of(entry) for entry in record["messages"])
    return Row(
        messages=_with_system(messages, record, columns),
        tools=tools_of(record),
        item=_extra_fields(record, ("messages", "tools", "functions")),
    )


def sharegpt(record: Record, columns: Columns) -> Row:
    """Convert ShareGPT: `conversations` of `from` and `value` (or `role` and `content`), and
    `tools`."""
    turns = record.get("conversations")
    if not isinstance(turns, list):
        raise BadRow("there is no list `conversations`")
    messages = tuple(message_of(_turn(turn)) for turn in turns)
    return Row(messages=_with_system(messages, record, columns), tools=tools_of(record))


def _turn(turn: Any) -> Any:
    """Return a turn of ShareGPT in OpenAI's format, which some files have already."""
    if not isinstance(turn, Mapping) or "from" not in turn:
        return turn
    if turn["from"] == "function_call":
        return call_from_text(turn.get("value"))
    return {"role": turn["from"], "content": turn.get("value")}


def pairs(record: Record, columns: Columns) -> Row:
    """Convert a prompt and its completion."""
    prompt = _pick(record, columns.prompt, _PROMPTS)
    answer = _pick_answer(record, columns.completion, _COMPLETIONS)
    return _single_turn_row(record, columns, prompt, answer, _history(record))


def prompts(record: Record, columns: Columns) -> Row:
    """Convert a question without an answer, for a teacher."""
    question = _pick(record, columns.prompt, _PROMPTS)
    messages = _with_system((Message("user", question),), record, columns)
    return Row(messages=messages, item=_extra_fields(record, _PROMPTS))


def alpaca(record: Record, columns: Columns) -> Row:
    """Convert instruction, optional input, output; `history` has the earlier turns as pairs."""
    instruction = _pick(record, columns.prompt, ("instruction",))
    extra_input = record.get("input")
    prompt = f"{instruction}\n\n{extra_input}" if extra_input else instruction
    answer = _pick_answer(record, columns.completion, ("output",))
    return _single_turn_row(record, columns, prompt, answer, _history(record))


def openai_preference(record: Record, columns: Columns) -> Row:
    """Convert OpenAI's preference format: `input` with messages, a preferred and a non-preferred
    output."""
    input_fields = record.get("input")
    if not isinstance(input_fields, Mapping) or not isinstance(input_fields.get("messages"), list):
        raise BadRow(
            "there is no `input` with a list `messages`", 'Write "input": {"messages": [...]}.'
        )
    sides = [record.get(key) for key in ("preferred_output", "non_preferred_output")]
    return _preference_row(input_fields["messages"], sides, input_fields, columns)


def preference(record: Record, columns: Columns) -> Row:
    """Convert TRL's preference format: `prompt`, `chosen` and `rejected`, as texts or as messages.

    Without a prompt, it is the common beginning of both conversations.
    """
    prompt = record.get(columns.prompt or "prompt")
    sides = [record.get(columns.chosen or "chosen"), record.get(columns.rejected or "rejected")]
    if all(isinstance(side, list) and len(side) > 1 for side in sides):
        context, other_context = (list(side)[:-1] for side in sides if side)
        if context != other_context:
            raise BadRow(
                "the two conversations differ before their last turn",
                "Let both begin with the same turns; only the last answer is compared.",
            )
        prompt, sides = context, [side[-1:] for side in sides if side]
    return _preference_row(prompt, sides, record, columns)


def unpaired_preference(record: Record, columns: Columns) -> Row:
    """Convert TRL's unpaired preference format (for KTO): `prompt`, `completion`, and `label` true
    or false."""
    label = _TRUTHS.get(str(record.get(columns.label or "label")).lower())
    if label is None:
        raise BadRow(
            f"the label is {record.get(columns.label or 'label')!r}, not true or false",
            "Write true or false; or say what the rows are: data.format=labelled, or =pairs.",
        )
    answer = _answer_message(record.get(columns.completion or "completion"), "completion")
    prompt = _context_messages(record.get(columns.prompt or "prompt"))
    messages = _with_system((*prompt, answer), record, columns)
    return Row(messages=messages, desirable=label, tools=tools_of(record))


def _preference_row(prompt: Any, sides: Sequence[Any], record: Record, columns: Columns) -> Row:
    chosen = _answer_message(sides[0], "preferred answer")
    rejected = _answer_message(sides[1], "rejected answer")
    messages = _with_system((*_context_messages(prompt), chosen), record, columns)
    return Row(messages=messages, rejected=rejected, tools=tools_of(record))


def _context_messages(prompt: Any) -> tuple[Message, ...]:
    """Return the turns before a judged answer: context, so none of them is trained."""
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    if not isinstance(prompt, list) or not prompt:
        raise BadRow("there is no prompt", "Write it as a text or as a list of messages.")
    return tuple(
        replace(message, weight=0.0) if message.role == "assistant" else message
        for message in map(message_of, prompt)
    )


def _answer_message(side: Any, name: str) -> Message:
    """Return one answer, from its text or from a list of one message."""
    if isinstance(side, str):
        return said(side)
    if isinstance(side, list) and len(side) == 1:
        message = message_of(side[0])
        if message.role == "assistant":
            return replace(message, weight=1.0)
    if side is None:
        raise BadRow(f"there is no {name}", "Add it, or drop the row.")
    raise BadRow(
        f"the {name} is not one assistant message", "Put the turns before it into the prompt."
    )


def labeled(record: Record, columns: Columns) -> Row:
    """Convert a text and its class."""
    label = unicodedata.normalize("NFC", _pick_label(record, columns).strip())
    row = _single_turn_row(
        record, columns, _pick(record, columns.prompt, (*_PROMPTS, "text")), label
    )
    return Row(messages=row.messages, label=label)


def text(record: Record, columns: Columns) -> Row:
    """Convert plain text, trained whole."""
    return Row(text=_pick(record, columns.text, ("text",)))


_PROMPTS = ("prompt", "question", "query")
_COMPLETIONS = ("completion", "answer", "response")
_LABELS = ("label", "category", "intent", "class")
#: Keys of answers in some format; a row with one of them isn't a question alone.
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
        '{"text": "Plain text, trained whole."}',
    ),
}


def detect_format(keys: set[str], columns: Columns) -> str:
    """Return the format of records with these keys. Raises BadData if none fits."""
    for name, row_format in FORMATS.items():
        if row_format.fits(keys, columns):
            return name
    raise BadData(
        f"Rows with the keys {', '.join(sorted(keys)) or '(none)'} have no known format.",
        "Name the columns: --set data.columns.prompt=... and data.columns.completion=... (or "
        f"data.columns.label=...). Known formats: {', '.join(FORMATS)}.",
    )


def _single_turn_row(
    record: Record,
    columns: Columns,
    prompt: str,
    answer: str,
    history: tuple[Message, ...] = (),
) -> Row:
    context = _optional(record, columns.context, ("context",))
    question = f"{context}\n\n{prompt}" if context else prompt
    messages = (*history, Message("user", question), said(answer))
    return Row(messages=_with_system(messages, record, columns))


def _with_system(
    messages: tuple[Message, ...], record: Record, columns: Columns
) -> tuple[Message, ...]:
    system = _optional(record, columns.system, ("system",))
    if not system or (messages and messages[0].role == "system"):
        return messages
    return (Message("system", system), *messages)


def _extra_fields(record: Record, conversation_keys: Sequence[str]) -> Record:
    """Return the fields of a record besides its conversation, for graders."""
    return {key: value for key, value in record.items() if key not in conversation_keys}


def _history(record: Record) -> tuple[Message, ...]:
    """Return the turns before a question, in the format of LLaMA-Factory and ms-swift: pairs of
    texts."""
    history = record.get("history")
    if isinstance(history, str) and history.strip():
        try:
            history = parse_json(history)
        except BadJson:
            history = [history]
    if not history:
        return ()
    are_pairs = isinstance(history, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(t, str) for t in pair)
        for pair in history
    )
    if not are_pairs:
        raise BadRow(
            "`history` is not a list of pairs of texts",
            'Write [["question", "answer"], ...]; if it is not a conversation, rename the column.',
        )
    return tuple(
        turn for question, answer in history for turn in (Message("user", question), said(answer))
    )


def _pick(record: Record, named: str | None, usual: Sequence[str]) -> str:
    value = _optional(record, named, usual)
    if value is None:
        keys = named or " or ".join(usual)
        raise BadRow(f"there is no `{keys}`", f"The row has: {', '.join(record)}.")
    return value


def _pick_answer(record: Record, named: str | None, usual: Sequence[str]) -> str:
    """Return an answer; objects are trained as JSON text, but a list of texts is ambiguous."""
    value = _value(record, named, usual)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        raise BadRow(
            "the answer is a list of texts",
            "Write one of them; if the list itself is the answer, its JSON as text.",
        )
    return _pick(record, named, usual)


def _pick_label(record: Record, columns: Columns) -> str:
    if isinstance(_value(record, columns.label, _LABELS), list | dict):
        raise BadRow(
            "the label is a list or an object, not one class",
            "Write one label as text; several at once, as the JSON text of an answer.",
        )
    return _pick(record, columns.label, _LABELS)


def _optional(record: Record, named: str | None, usual: Sequence[str]) -> str | None:
    value = _value(record, named, usual)
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise BadRow(
                "a column contains bytes that are not UTF-8 text", "Write text."
            ) from error
    return None if value is None else str(value)


def _value(record: Record, named: str | None, usual: Sequence[str]) -> Any:
    """Return the first of these keys' values that isn't null; None if all are."""
    values = (record.get(key) for key in ((named,) if named else usual))
    return next((value for value in values if value is not None), None)


def _has(keys: set[str], named: str | None, usual: Sequence[str]) -> bool:
    return named in keys if named else bool(keys & set(usual))
