"""From a request on the wire to requests of the engine."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from burnish.core.errors import PromptTooLong
from burnish.core.images import BadImage, Image, image_from_data_url, join_parts
from burnish.core.records import Message, Prompt, Role
from burnish.engines.external.base import ExternalEngine
from burnish.engines.local.decoding import GenerationRequest
from burnish.engines.local.vision import VisionEngine
from burnish.engines.scheduling.served import ServedEngine
from burnish.models.chat_template import encode_prompt, encode_rendered_prompt
from burnish.rag.answer import INSTRUCTION
from burnish.rag.prompt import fit_passages, with_passages
from burnish.rag.store import Passage
from burnish.serve.errors import RequestError
from burnish.serve.inference.constraints import answer_grammar, forced_tools
from burnish.serve.inference.protocol import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    ContentPart,
    GenerationParams,
    ImageUrl,
    unsupported_fields,
)

#: The hosted API's own default for plain completions.
_COMPLETION_TOKENS = 16
#: What a model is told whose own template doesn't know of tools.
_TOOLS_INSTRUCTION = (
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
    engine: ServedEngine,
    request: ChatRequest,
    max_new_tokens: int,
    passages: Sequence[Passage] = (),
) -> list[GenerationRequest]:
    """The `n` requests that a chat request asks for, with as many of `passages` as fit.

    Without a system message, a model that was trained with one is asked with it. An answer is at
    most `longest` tokens where the request names no length, and never more than the context holds.
    Raises Refused, PromptTooLong, BadData.
    """
    _reject_unsupported(request)
    if request.top_logprobs and not request.logprobs:
        raise RequestError("`top_logprobs` needs `logprobs` to be true.", "top_logprobs")
    grammar = _check_grammar(engine, request)
    sees = isinstance(engine, VisionEngine)
    messages = [_as_message(turn, place, sees) for place, turn in enumerate(request.messages)]
    if engine.system and not any(message.role == "system" for message in messages):
        messages = [Message("system", engine.system), *messages]
    tools = () if request.tool_choice == "none" else _tool_definitions(request)
    if "tools" not in str(engine.tokenizer.chat_template):
        messages, tools = _describe_tools(messages, tools), ()
    wanted = request.max_completion_tokens or request.max_tokens or max_new_tokens
    if passages:
        messages = _add_passages(engine, messages, passages, tools, wanted)
    ids = encode_prompt(engine.tokenizer, messages, tools)
    prompt = Prompt(
        tuple(messages),
        max_new_tokens=wanted,
        choices=tuple(request.guided_choice or ()),
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        grammar=grammar,
    )
    return _make_requests(engine, prompt, ids, request)


def completion_requests(
    engine: ServedEngine, request: CompletionRequest
) -> list[tuple[str, list[GenerationRequest]]]:
    """For each prompt, its text and its `n` requests. Raises Refused, PromptTooLong."""
    _reject_unsupported(request)
    prompt = Prompt(
        (),
        max_new_tokens=request.max_tokens or _COMPLETION_TOKENS,
        choices=tuple(request.guided_choice or ()),
        top_logprobs=request.logprobs,
        grammar=_check_grammar(engine, request),
    )
    rows = [_token_ids(engine, one) for one in _list_prompts(request)]
    texts = [str(engine.tokenizer.decode(ids)) for ids in rows]
    return [
        (text, _make_requests(engine, prompt, ids, request))
        for text, ids in zip(texts, rows, strict=True)
    ]


def _check_grammar(engine: ServedEngine, request: GenerationParams) -> str:
    """The grammar that an answer must follow. Raises Refused if the engine can't be held to it."""
    grammar = answer_grammar(request)
    if grammar and isinstance(engine, ExternalEngine) and not engine.supports_grammars:
        raise RequestError(
            f"{request.model} is an exported folder, and {engine.child.name} cannot hold an answer "
            "to a schema here. Ask without, or serve the run itself (or its --to merged).",
            "tool_choice" if forced_tools(request) else "response_format",
            "unsupported_value",
        )
    return grammar


def _add_passages(
    engine: ServedEngine,
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
    kept = fit_passages(messages, passages, count, room)
    if not kept:
        said = f"Not even one passage fits the context of {engine.context_length} tokens."
        raise PromptTooLong(said, "Ask more briefly, or a model with a longer context.")
    return list(with_passages(messages, kept))


def _tool_definitions(request: ChatRequest) -> tuple[Mapping[str, Any], ...]:
    tools = tuple(tool.model_dump(exclude_none=True) for tool in request.tools or ())
    try:
        json.dumps(tools, ensure_ascii=False).encode()
    except (RecursionError, UnicodeEncodeError) as error:
        raise RequestError("`tools` are nested too deeply, or not text.", "tools") from error
    return tools


def _describe_tools(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> list[Message]:
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
    told = f"{_TOOLS_INSTRUCTION}\n{functions}"
    if spoken and spoken[0].role == "system":
        return [replace(spoken[0], content=f"{spoken[0].content}\n\n{told}"), *spoken[1:]]
    return [Message("system", told), *spoken]


def _reject_unsupported(request: GenerationParams) -> None:
    for name, why in unsupported_fields(request):
        raise RequestError(why, name, "unsupported_value")


def _make_requests(
    engine: ServedEngine, prompt: Prompt, ids: Sequence[int], request: GenerationParams
) -> list[GenerationRequest]:
    """`n` requests for the same tokens, each with a seed of its own."""
    room = max(engine.context_length - len(ids), 1)
    sampled = replace(
        prompt,
        max_new_tokens=min(prompt.max_new_tokens, room),
        stop=request.stops,
        temperature=1.0 if request.temperature is None else request.temperature,
        top_p=1.0 if request.top_p is None else request.top_p,
    )
    seeds = [None if request.seed is None else request.seed + n for n in range(request.n or 1)]
    return [
        engine.build_request_from_ids(
            replace(sampled, seed=None if seed is None else seed % 2**63), ids
        )
        for seed in seeds
    ]


def _as_message(turn: ChatMessage, place: int, sees: bool) -> Message:
    calls = tuple(call.model_dump() for call in turn.tool_calls or ())
    content, pictures = _read_content(turn, f"messages.{place}.content", sees)
    return Message(
        _ROLES[turn.role],
        content,
        name=turn.name,
        tool_calls=calls,
        tool_call_id=turn.tool_call_id,
        images=pictures,
    )


def _read_content(turn: ChatMessage, place: str, sees: bool) -> tuple[str, tuple[Image, ...]]:
    if turn.content is None:
        if turn.role == "assistant" and turn.tool_calls:
            return "", ()
        raise RequestError("A message needs `content`.", place)
    if isinstance(turn.content, str):
        return turn.content, ()
    return join_parts(
        _read_part(part, place, sees and turn.role == "user") for part in turn.content
    )


def _read_part(part: ContentPart, place: str, sees: bool) -> str | Image:
    if part.type in ("text", "input_text") and part.text is not None:
        return part.text
    given = part.image_url
    url = given.url if isinstance(given, ImageUrl) else given
    if part.type not in ("image_url", "input_image") or url is None:
        raise RequestError(f"Content of type `{part.type}` cannot be read.", place)
    if not sees:
        raise RequestError(
            f"Content of type `{part.type}` cannot be read: pictures can stand in what the user "
            "says, to a model that sees.",
            place,
        )
    try:
        return image_from_data_url(url)
    except BadImage as error:
        raise RequestError(f"{error.what} {error.fix}", place) from error


def _list_prompts(request: CompletionRequest) -> list[str | list[int]]:
    prompt = request.prompt
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]  # type: ignore[list-item]
    return list(prompt)  # type: ignore[arg-type]


def _token_ids(engine: ServedEngine, prompt: str | list[int]) -> list[int]:
    ids = encode_rendered_prompt(engine.tokenizer, prompt) if isinstance(prompt, str) else prompt
    if not ids:
        raise RequestError("The prompt is empty.", "prompt")
    if max(ids) >= engine.vocabulary:
        raise RequestError(f"The model knows tokens 0 to {engine.vocabulary - 1}.", "prompt")
    return ids
