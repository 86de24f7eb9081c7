"""From a request on the wire to requests of the engine."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from burnish.core.errors import PromptTooLong
from burnish.core.images import BadPicture, Picture, joined, picture_of
from burnish.core.records import Message, Prompt, Role
from burnish.engines.external.base import ChildEngine
from burnish.engines.local.decoding import Request
from burnish.engines.local.vision import SeeingEngine
from burnish.engines.scheduling.served import Served
from burnish.models.chat_template import encode_asked, encode_prompt
from burnish.rag.answer import INSTRUCTION
from burnish.rag.prompt import fitting, with_passages
from burnish.rag.store import Passage
from burnish.serve.errors import Refused
from burnish.serve.inference.constraints import forced_tools, grammar_of
from burnish.serve.inference.protocol import (
    Asked,
    ChatRequest,
    CompletionRequest,
    ImageUrl,
    Part,
    Turn,
    refusals,
)

#: The hosted API's own default for plain completions.
_COMPLETION_TOKENS = 16
#: What a model is told whose own template doesn't know of tools.
_TOOLS = (
    'You can call a function by answering with nothing but {"name": ..., "arguments": {...}}. '
    "The functions, with the JSON Schema of their arguments:"
)
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def chat_requests(
    engine: Served, asked: ChatRequest, longest: int, passages: Sequence[Passage] = ()
) -> list[Request]:
    """The `n` requests that a chat request asks for, with as many of `passages` as fit.

    Without a system message, a model that was trained with one is asked with it. An answer is at
    most `longest` tokens where the request names no length, and never more than the context holds.
    Raises Refused, PromptTooLong, BadData.
    """
    _refuse(asked)
    if asked.top_logprobs and not asked.logprobs:
        raise Refused("`top_logprobs` needs `logprobs` to be true.", "top_logprobs")
    grammar = _bound(engine, asked)
    sees = isinstance(engine, SeeingEngine)
    messages = [_message(turn, place, sees) for place, turn in enumerate(asked.messages)]
    if engine.system and not any(message.role == "system" for message in messages):
        messages = [Message("system", engine.system), *messages]
    tools = () if asked.tool_choice == "none" else _tools(asked)
    if "tools" not in str(engine.tokenizer.chat_template):
        messages, tools = _described(messages, tools), ()
    wanted = asked.max_completion_tokens or asked.max_tokens or longest
    if passages:
        messages = _grounded(engine, messages, passages, tools, wanted)
    ids = encode_prompt(engine.tokenizer, messages, tools)
    prompt = Prompt(
        tuple(messages),
        max_new_tokens=wanted,
        choices=tuple(asked.guided_choice or ()),
        top_logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        grammar=grammar,
    )
    return _copies(engine, prompt, ids, asked)


def completion_requests(
    engine: Served, asked: CompletionRequest
) -> list[tuple[str, list[Request]]]:
    """For each prompt, its text and its `n` requests. Raises Refused, PromptTooLong."""
    _refuse(asked)
    prompt = Prompt(
        (),
        max_new_tokens=asked.max_tokens or _COMPLETION_TOKENS,
        choices=tuple(asked.guided_choice or ()),
        top_logprobs=asked.logprobs,
        grammar=_bound(engine, asked),
    )
    rows = [_tokens(engine, one) for one in _prompts(asked)]
    texts = [str(engine.tokenizer.decode(ids)) for ids in rows]
    return [
        (text, _copies(engine, prompt, ids, asked)) for text, ids in zip(texts, rows, strict=True)
    ]


def _bound(engine: Served, asked: Asked) -> str:
    """The grammar that an answer must follow. Raises Refused if the engine can't be held to it."""
    grammar = grammar_of(asked)
    if grammar and isinstance(engine, ChildEngine) and not engine.holds_grammars:
        raise Refused(
            f"{asked.model} is an exported folder, and {engine.child.name} cannot hold an answer "
            "to a schema here. Ask without, or serve the run itself (or its --to merged).",
            "tool_choice" if forced_tools(asked) else "response_format",
            "unsupported_value",
        )
    return grammar


def _grounded(
    engine: Served,
    messages: Sequence[Message],
    passages: Sequence[Passage],
    tools: Sequence[Mapping[str, Any]],
    wanted: int,
) -> list[Message]:
    """The messages with numbered passages, and told to cite them.

    A model with a prompt of its training is asked as it was trained. Raises PromptTooLong if not
    even one passage fits beside the answer.
    """
    if not engine.system:
        told = [turn.content for turn in messages if turn.role == "system"]
        rest = [turn for turn in messages if turn.role != "system"]
        messages = [Message("system", "\n\n".join([*told, INSTRUCTION])), *rest]

    def count(turns: Sequence[Message]) -> int:
        return len(encode_prompt(engine.tokenizer, turns, tools))

    room = engine.context_length - min(wanted, engine.context_length // 4)
    kept = fitting(messages, passages, count, room)
    if not kept:
        said = f"Not even one passage fits the context of {engine.context_length} tokens."
        raise PromptTooLong(said, "Ask more briefly, or a model with a longer context.")
    return list(with_passages(messages, kept))


def _tools(asked: ChatRequest) -> tuple[Mapping[str, Any], ...]:
    tools = tuple(tool.model_dump(exclude_none=True) for tool in asked.tools or ())
    try:
        json.dumps(tools, ensure_ascii=False).encode()
    except (RecursionError, UnicodeEncodeError) as error:
        raise Refused("`tools` are nested too deeply, or not text.", "tools") from error
    return tools


def _described(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The conversation for a template that renders no tools: functions and calls as plain text."""
    spoken = [
        replace(turn, content=turn.content or json.dumps([c["function"] for c in turn.tool_calls]))
        if turn.tool_calls
        else turn
        for turn in messages
    ]
    if not tools:
        return spoken
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    told = f"{_TOOLS}\n{functions}"
    if spoken and spoken[0].role == "system":
        return [replace(spoken[0], content=f"{spoken[0].content}\n\n{told}"), *spoken[1:]]
    return [Message("system", told), *spoken]


def _refuse(asked: Asked) -> None:
    for name, why in refusals(asked):
        raise Refused(why, name, "unsupported_value")


def _copies(engine: Served, prompt: Prompt, ids: Sequence[int], asked: Asked) -> list[Request]:
    """`n` requests for the same tokens, each with a seed of its own."""
    room = max(engine.context_length - len(ids), 1)
    sampled = replace(
        prompt,
        max_new_tokens=min(prompt.max_new_tokens, room),
        stop=asked.stops,
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
    )
    seeds = [None if asked.seed is None else asked.seed + n for n in range(asked.n or 1)]
    return [
        engine.request_for(replace(sampled, seed=None if seed is None else seed % 2**63), ids)
        for seed in seeds
    ]


def _message(turn: Turn, place: int, sees: bool) -> Message:
    calls = tuple(call.model_dump() for call in turn.tool_calls or ())
    content, pictures = _content(turn, f"messages.{place}.content", sees)
    return Message(
        _ROLES[turn.role],
        content,
        name=turn.name,
        tool_calls=calls,
        tool_call_id=turn.tool_call_id,
        pictures=pictures,
    )


def _content(turn: Turn, place: str, sees: bool) -> tuple[str, tuple[Picture, ...]]:
    if turn.content is None:
        if turn.role == "assistant" and turn.tool_calls:
            return "", ()
        raise Refused("A message needs `content`.", place)
    if isinstance(turn.content, str):
        return turn.content, ()
    return joined(_part(part, place, sees and turn.role == "user") for part in turn.content)


def _part(part: Part, place: str, sees: bool) -> str | Picture:
    if part.type in ("text", "input_text") and part.text is not None:
        return part.text
    given = part.image_url
    url = given.url if isinstance(given, ImageUrl) else given
    if part.type not in ("image_url", "input_image") or url is None:
        raise Refused(f"Content of type `{part.type}` cannot be read.", place)
    if not sees:
        raise Refused(
            f"Content of type `{part.type}` cannot be read: pictures can stand in what the user "
            "says, to a model that sees.",
            place,
        )
    try:
        return picture_of(url)
    except BadPicture as error:
        raise Refused(f"{error.what} {error.fix}", place) from error


def _prompts(asked: CompletionRequest) -> list[str | list[int]]:
    prompt = asked.prompt
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]  # type: ignore[list-item]
    return list(prompt)  # type: ignore[arg-type]


def _tokens(engine: Served, prompt: str | list[int]) -> list[int]:
    ids = encode_asked(engine.tokenizer, prompt) if isinstance(prompt, str) else prompt
    if not ids:
        raise Refused("The prompt is empty.", "prompt")
    if max(ids) >= engine.vocabulary:
        raise Refused(f"The model knows tokens 0 to {engine.vocabulary - 1}.", "prompt")
    return ids
