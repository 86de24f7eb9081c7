"""Fields of a request that are known, not supported, and refused rather than ignored."""

from collections.abc import Callable, Mapping
from typing import Any

from burnish.serve.inference.protocol import GenerationParams


def _is_text_only(value: Any) -> bool:
    return bool(value == ["text"])


def _is_not_forced(value: Any) -> bool:
    return value in ("auto", "none")


def _is_empty(value: Any) -> bool:
    return not value


def _is_one(value: Any) -> bool:
    return bool(value == 1)


#: Fields that cannot be ignored: which of their values are harmless, and why the others are not.
UNSUPPORTED_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "function_call": (_is_not_forced, "it is deprecated; use `tool_choice`"),
    "functions": (_is_empty, "`functions` is deprecated and not rendered; use `tools`"),
    "logit_bias": (_is_empty, "tokens cannot be biased"),
    "frequency_penalty": (_is_empty, "there is no repetition penalty"),
    "presence_penalty": (_is_empty, "there is no repetition penalty"),
    "modalities": (_is_text_only, "the output is text only"),
    "audio": (_is_empty, "the output is text only"),
    "web_search_options": (_is_empty, "there is no web search"),
    "echo": (_is_empty, "the prompt cannot be returned"),
    "suffix": (_is_empty, "text cannot be inserted before a suffix"),
    "best_of": (_is_one, "every generated answer is returned"),
}


def unsupported_fields(request: GenerationParams) -> list[tuple[str, str]]:
    """Return the fields of the request that cannot be honoured, each with the reason."""
    values = {name: getattr(request, name, None) for name in UNSUPPORTED_FIELDS}
    return [
        (name, f"`{name}` is not supported with this value: {UNSUPPORTED_FIELDS[name][1]}.")
        for name, value in values.items()
        if value is not None and not UNSUPPORTED_FIELDS[name][0](value)
    ]
