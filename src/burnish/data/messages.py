"""One turn of a conversation, from its object in a file."""

from collections.abc import Mapping
from typing import Any, get_args

from burnish.core.images import BadImage, Image, image_from_data_url, join_parts
from burnish.core.reasoning import split_reasoning
from burnish.core.records import Message, Role
from burnish.data.calls import calls_of
from burnish.data.images import as_bad_row, image_url_of
from burnish.data.spans import BadRow

#: Role names of other formats → ours.
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "function": "tool",
    "observation": "tool",
    "developer": "system",
}


def message_of(entry: Any) -> Message:
    """Return the turn; a null key counts as absent. Raises BadRow."""
    if not isinstance(entry, Mapping):
        raise BadRow(
            f"a message is {type(entry).__name__}, not an object with role and content",
            'Write {"role": "user", "content": "..."}.',
        )
    role = _role(entry.get("role"))
    calls = calls_of(entry)
    content, images = _content(entry, allow_none=bool(calls))
    if images and role == "assistant":
        raise BadRow("an answer contains an image", "Only questions can contain images.")
    reasoning = ""
    if role == "assistant":
        inline, content = split_reasoning(content)
        reasoning = inline or str(entry.get("reasoning_content") or "").strip()
    weight = 1 if entry.get("weight") is None else entry["weight"]
    if weight not in (0, 1):
        raise BadRow(f"weight {weight!r} is not 0 or 1", "Use 0 to leave a turn untrained.")
    return Message(
        role=role,
        content=content,
        weight=float(weight),
        name=_text(entry.get("name")),
        tool_calls=calls,
        tool_call_id=_text(entry.get("tool_call_id")),
        images=images,
        reasoning=reasoning,
    )


def _role(value: Any) -> Role:
    role: Any = _ROLES.get(str(value), value)
    if role in get_args(Role):
        return role  # type: ignore[no-any-return]
    if value is None:
        what, fix = "a message has no role", 'Write {"role": "user", "content": "..."}.'
    else:
        what, fix = f"role {value!r} is not system, user, assistant or tool", "Correct the role."
    raise BadRow(what, fix, code="wrong_role")


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def said(answer: str) -> Message:
    """Return an answer as a message, with its reasoning split off."""
    reasoning, content = split_reasoning(answer)
    return Message("assistant", content, reasoning=reasoning)


def _content(entry: Mapping[str, Any], allow_none: bool) -> tuple[str, tuple[Image, ...]]:
    """Return the content of a message; a refusal takes its place."""
    content = entry.get("content")
    if content is None and isinstance(entry.get("refusal"), str):
        content = entry["refusal"]
    if isinstance(content, list):  # content parts, as in the API
        return join_parts(_part(part) for part in content)
    if content is None and allow_none:
        return "", ()
    if content is None:
        raise BadRow("a message has no content", "Write the text, or drop the message.")
    if not isinstance(content, str):
        raise BadRow(
            f"a message's content is {type(content).__name__}, not text",
            'Put it in quotes: "content": "42"; an object as its JSON text.',
        )
    return content, ()


def _part(part: Any) -> str | Image:
    """Return one part of a message: its text, or its image, which may have been loaded already."""
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
        "a message has a part that is neither text nor an image",
        'Write {"type": "text", "text": ...} or {"type": "image_url", "image_url": {"url": ...}}.',
    )
