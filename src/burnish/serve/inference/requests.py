"""Build engine requests from an API request."""

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
from burnish.serve.inference.constraints import forced_tools, is_constrained
from burnish.serve.inference.protocol import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    ContentPart,
    GenerationParams,
    ImageUrl,
)
from burnish.serve.inference.unsupported import unsupported_fields

#: The hosted API's own default for plain completions.
_COMPLETION_TOKENS = 16
#: Characters of a token, at most, on the average of a whole prompt: 4 are usual.
_MAX_TOKEN_CHARS = 64
#: The instruction for a model whose chat template renders no tools.
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
    grammar: str = "",
) -> list[GenerationRequest]:
    """Build the `n` engine requests of a chat request, with as many of `passages` as fit.

    `grammar` is that of `answer_grammar`.

    A model trained with a system message gets it where the request has none. An answer has at most
    `max_new_tokens` tokens where the request sets no limit, and never more than the context holds.
    Raises RequestError, PromptTooLong, BadData.
    """
    _reject_unsupported(request)
    if request.top_logprobs and not request.logprobs:
        raise RequestError("`top_logprobs` needs `logprobs` to be true.", "top_logprobs")
    reads_images = isinstance(engine, VisionEngine)
    messages = [
        _as_message(message, index, reads_images) for index, message in enumerate(request.messages)
    ]
    if engine.system and not any(message.role == "system" for message in messages):
        messages = [Message("system", engine.system), *messages]
    tools = () if request.tool_choice == "none" else _tool_definitions(request)
    if "tools" not in str(engine.tokenizer.chat_template):
        messages, tools = _describe_tools(messages, tools), ()
    max_new_tokens = request.max_completion_tokens or request.max_tokens or max_new_tokens
    _check_length(engine, messages, tools)
    if passages:
        messages = _add_passages(engine, messages, passages, tools, max_new_tokens)
    ids = encode_prompt(engine.tokenizer, messages, tools)
    prompt = Prompt(
        tuple(messages),
        max_new_tokens=max_new_tokens,
        choices=tuple(request.guided_choice or ()),
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        grammar=grammar,
    )
    return _make_requests(engine, prompt, ids, request)


def completion_requests(
    engine: ServedEngine, request: CompletionRequest, grammar: str = ""
) -> list[tuple[str, list[GenerationRequest]]]:
    """Return each prompt's text with its `n` requests. Raises RequestError, PromptTooLong."""
    _reject_unsupported(request)
    prompt = Prompt(
        (),
        max_new_tokens=request.max_tokens or _COMPLETION_TOKENS,
        choices=tuple(request.guided_choice or ()),
        top_logprobs=request.logprobs,
        grammar=grammar,
    )
    rows = [_token_ids(engine, one) for one in _list_prompts(request)]
    texts = [str(engine.tokenizer.decode(ids)) for ids in rows]
    return [
        (text, _make_requests(engine, prompt, ids, request))
        for text, ids in zip(texts, rows, strict=True)
    ]


def check_enforceable(engine: ServedEngine, request: GenerationParams) -> None:
    """Raises RequestError for a request with a schema that the engine cannot enforce."""
    if (
        is_constrained(request)
        and isinstance(engine, ExternalEngine)
        and not engine.supports_grammars
    ):
        raise RequestError(
            f"{request.model} is an exported folder, and {engine.child.name} cannot enforce a "
            "schema. Leave the schema out, or serve the run itself (or its --to merged).",
            "tool_choice" if forced_tools(request) else "response_format",
            "unsupported_value",
        )


def _add_passages(
    engine: ServedEngine,
    messages: Sequence[Message],
    passages: Sequence[Passage],
    tools: Sequence[Mapping[str, Any]],
    max_new_tokens: int,
) -> list[Message]:
    """Add numbered passages and the instruction to cite them.

    A model trained with a system message keeps it and gets no instruction. Raises PromptTooLong if
    not even one passage fits beside the answer.
    """
    if not engine.system:
        instructions = [message.content for message in messages if message.role == "system"]
        rest = [message for message in messages if message.role != "system"]
        messages = [Message("system", "\n\n".join([*instructions, INSTRUCTION])), *rest]

    def count_tokens(messages: Sequence[Message]) -> int:
        return len(encode_prompt(engine.tokenizer, messages, tools))

    limit = engine.context_length - min(max_new_tokens, engine.context_length // 4)
    fitting = fit_passages(messages, passages, count_tokens, limit)
    if not fitting:
        raise PromptTooLong(
            f"Not even one passage fits the context of {engine.context_length} tokens.",
            "Shorten the question, or use a model with a longer context.",
        )
    return list(with_passages(messages, fitting))


def _check_length(
    engine: ServedEngine, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> None:
    """Raises PromptTooLong for a text that is too long before its tokens are counted.

    Encoding megabytes takes seconds, in which no other prompt is encoded.
    """
    count = sum(len(message.content) for message in messages)
    count += len(json.dumps(tools)) if tools else 0
    if count > engine.context_length * _MAX_TOKEN_CHARS:
        raise PromptTooLong(
            f"The prompt has {count} characters, more than the {engine.context_length} tokens of "
            "the model's context can hold.",
            "Shorten the prompt.",
        )


def _tool_definitions(request: ChatRequest) -> tuple[Mapping[str, Any], ...]:
    tools = tuple(tool.model_dump(exclude_none=True) for tool in request.tools or ())
    try:
        json.dumps(tools, ensure_ascii=False).encode()
    except (RecursionError, UnicodeEncodeError) as error:
        raise RequestError(
            "`tools` are nested too deeply, or contain invalid text.", "tools"
        ) from error
    return tools


def _describe_tools(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> list[Message]:
    """Render functions and calls as plain text, for a chat template that renders no tools."""
    rendered = [_call_as_text(message) if message.tool_calls else message for message in messages]
    if not tools:
        return rendered
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    instruction = f"{_TOOLS_INSTRUCTION}\n{functions}"
    if rendered and rendered[0].role == "system":
        first, *rest = rendered
        return [replace(first, content=f"{first.content}\n\n{instruction}"), *rest]
    return [Message("system", instruction), *rendered]


def _call_as_text(message: Message) -> Message:
    calls = json.dumps([call["function"] for call in message.tool_calls])
    return replace(message, content=message.content or calls)


def _reject_unsupported(request: GenerationParams) -> None:
    for name, reason in unsupported_fields(request):
        raise RequestError(reason, name, "unsupported_value")


def _make_requests(
    engine: ServedEngine, prompt: Prompt, ids: Sequence[int], request: GenerationParams
) -> list[GenerationRequest]:
    """Build `n` requests for the same tokens, each with its own seed."""
    free = max(engine.context_length - len(ids), 1)
    sampled = replace(
        prompt,
        max_new_tokens=min(prompt.max_new_tokens, free),
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


def _as_message(message: ChatMessage, index: int, reads_images: bool) -> Message:
    calls = tuple(call.model_dump() for call in message.tool_calls or ())
    content, images = _read_content(message, f"messages.{index}.content", reads_images)
    return Message(
        _ROLES[message.role],
        content,
        name=message.name,
        tool_calls=calls,
        tool_call_id=message.tool_call_id,
        images=images,
    )


def _read_content(
    message: ChatMessage, param: str, reads_images: bool
) -> tuple[str, tuple[Image, ...]]:
    if message.content is None:
        if message.role == "assistant" and message.tool_calls:
            return "", ()
        raise RequestError("A message needs `content`.", param)
    if isinstance(message.content, str):
        return message.content, ()
    images_allowed = reads_images and message.role == "user"
    return join_parts(_read_part(part, param, images_allowed) for part in message.content)


def _read_part(part: ContentPart, param: str, images_allowed: bool) -> str | Image:
    if part.type in ("text", "input_text") and part.text is not None:
        return part.text
    image = part.image_url
    url = image.url if isinstance(image, ImageUrl) else image
    if part.type not in ("image_url", "input_image") or url is None:
        raise RequestError(f"Content of type `{part.type}` is not supported.", param)
    if not images_allowed:
        raise RequestError(
            f"Content of type `{part.type}` is not supported: images belong in a user message to "
            "a vision-language model.",
            param,
        )
    try:
        return image_from_data_url(url)
    except BadImage as error:
        raise RequestError(f"{error.what} {error.fix}", param) from error


def _list_prompts(request: CompletionRequest) -> list[str | list[int]]:
    prompt = request.prompt
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]  # type: ignore[list-item]
    return list(prompt)  # type: ignore[arg-type]


def _token_ids(engine: ServedEngine, prompt: str | list[int]) -> list[int]:
    if isinstance(prompt, str):
        _check_length(engine, [Message("user", prompt)], ())
    ids = encode_rendered_prompt(engine.tokenizer, prompt) if isinstance(prompt, str) else prompt
    if not ids:
        raise RequestError("The prompt is empty.", "prompt")
    if max(ids) >= engine.vocabulary:
        raise RequestError(f"The model's tokens are 0 to {engine.vocabulary - 1}.", "prompt")
    return ids
