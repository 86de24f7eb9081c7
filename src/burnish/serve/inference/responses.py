"""Build response bodies and stream chunks from an engine's answers."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Literal

from burnish.core.records import Answer, TokenLogprob
from burnish.serve.inference.protocol import (
    Alternative,
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatDelta,
    ChatLogprobs,
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionLogprobs,
    FinishReason,
    Usage,
)
from burnish.serve.inference.tool_calls import AnswerParser, ParsedAnswer, parse_answer


def usage(answers: Sequence[Answer], prompts: Sequence[Answer]) -> Usage:
    """Count the tokens of `answers`; `prompts` has one answer to each different prompt."""
    read = sum(answer.tokens_in for answer in prompts)
    generated = sum(answer.tokens_out for answer in answers)
    return {
        "prompt_tokens": read,
        "completion_tokens": generated,
        "total_tokens": read + generated,
        "prompt_tokens_details": {"cached_tokens": sum(one.tokens_cached for one in prompts)},
    }


@dataclass(slots=True)
class ChatFormatter:
    """Formats answers as `chat.completion` and `chat.completion.chunk`."""

    model: str
    with_logprobs: bool
    #: Names of the functions that may be called.
    functions: Collection[str] = ()
    id: str = field(default_factory=lambda: f"chatcmpl-{token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    parsers: dict[int, AnswerParser] = field(default_factory=dict)

    def full_body(self, answers: Sequence[Answer]) -> ChatCompletion:
        """Return the body of a response that is not streamed."""
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[self._choice(index, answer) for index, answer in enumerate(answers)],
            usage=usage(answers, answers[:1]),
        )

    def first_chunk(self, index: int) -> ChatCompletionChunk:
        """Return the chunk that names the role of a choice."""
        return self._chunk(index, {"role": "assistant", "content": ""}, (), None)

    def text_chunk(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob]
    ) -> ChatCompletionChunk | None:
        """Return the chunk with more reasoning or text of a choice; None while the text may still
        turn out to be a tool call."""
        parser = self._parser(index)
        parser.held_logprobs += logprobs
        reasoning, content = parser.feed(text)
        if not (reasoning or content) and (text or self.functions):
            return None
        logprobs, parser.held_logprobs = parser.held_logprobs, []
        return self._chunk(index, _delta(reasoning, content), logprobs, None)

    def final_chunks(self, index: int, answer: Answer) -> list[ChatCompletionChunk]:
        """Return the chunks with the text that was held back and the reason why a choice ended."""
        parsed, parser = self._parse(answer), self._parser(index)
        reasoning, content = parser.end()
        last = self._chunk(index, {}, (), _finish_reason(answer, parsed))
        if parsed.calls:
            delta = ChatDelta(
                tool_calls=[{"index": place, **call} for place, call in enumerate(parsed.calls)]
            )
        elif reasoning or content:
            delta = _delta(reasoning, content)
        else:
            return [last]
        return [self._chunk(index, delta, parser.held_logprobs, None), last]

    def usage_chunk(self, answers: Sequence[Answer], per_prompt: int) -> ChatCompletionChunk:
        """Return the chunk of `stream_options.include_usage`."""
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": [],
            "usage": usage(answers, answers[::per_prompt]),
        }

    def _parser(self, index: int) -> AnswerParser:
        return self.parsers.setdefault(index, AnswerParser(bool(self.functions)))

    def _parse(self, answer: Answer) -> ParsedAnswer:
        return parse_answer(answer.text, self.functions)

    def _choice(self, index: int, answer: Answer) -> ChatChoice:
        parsed = self._parse(answer)
        return ChatChoice(
            index=index,
            message=AssistantMessage(
                content=(parsed.text or None) if parsed.calls else parsed.text,
                reasoning_content=parsed.reasoning or None,
                tool_calls=list(parsed.calls) or None,
            ),
            logprobs=_chat_logprobs(answer.logprobs) if self.with_logprobs else None,
            finish_reason=_finish_reason(answer, parsed),
        )

    def _chunk(
        self,
        index: int,
        delta: ChatDelta,
        logprobs: Sequence[TokenLogprob],
        finish_reason: FinishReason | None,
    ) -> ChatCompletionChunk:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": [
                {
                    "index": index,
                    "delta": delta,
                    "logprobs": _chat_logprobs(logprobs) if logprobs else None,
                    "finish_reason": finish_reason,
                }
            ],
        }


@dataclass(slots=True)
class CompletionFormatter:
    """Formats answers as `text_completion`.

    `prompt_lengths` has the characters of each choice's prompt; `per_prompt` is `n`.
    """

    model: str
    with_logprobs: bool
    prompt_lengths: Sequence[int]
    per_prompt: int
    id: str = field(default_factory=lambda: f"cmpl-{token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def full_body(self, answers: Sequence[Answer]) -> Completion:
        """Return the body of a response that is not streamed."""
        choices = [
            self._choice(index, answer.text, answer.logprobs, answer.finish_reason)
            for index, answer in enumerate(answers)
        ]
        return Completion(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=choices,
            usage=usage(answers, answers[:: self.per_prompt]),
        )

    def first_chunk(self, index: int) -> None:
        """Return nothing: plain completions name no role."""

    def text_chunk(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob]
    ) -> CompletionChunk:
        """Return the chunk with more text of a choice."""
        return self._chunk([self._choice(index, text, logprobs, None)])

    def final_chunks(self, index: int, answer: Answer) -> list[CompletionChunk]:
        """Return the chunk with the reason why a choice ended."""
        return [self._chunk([self._choice(index, "", (), answer.finish_reason)])]

    def usage_chunk(self, answers: Sequence[Answer], per_prompt: int) -> CompletionChunk:
        """Return the chunk of `stream_options.include_usage`."""
        return {**self._chunk([]), "usage": usage(answers, answers[::per_prompt])}

    def _chunk(self, choices: list[CompletionChoice]) -> CompletionChunk:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _choice(
        self,
        index: int,
        text: str,
        logprobs: Sequence[TokenLogprob],
        finish_reason: Literal["stop", "length"] | None,
    ) -> CompletionChoice:
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(index, logprobs) if self.with_logprobs else None,
            "finish_reason": finish_reason,
        }

    def _logprobs(self, index: int, logprobs: Sequence[TokenLogprob]) -> CompletionLogprobs:
        offsets, position = [], self.prompt_lengths[index]
        for one in logprobs:
            offsets.append(position)
            position += len(one.token)
        return {
            "tokens": [one.token for one in logprobs],
            "token_logprobs": [one.logprob for one in logprobs],
            "top_logprobs": [dict(one.top) for one in logprobs],
            "text_offset": offsets,
        }


def _delta(reasoning: str, content: str) -> ChatDelta:
    """Return what is new of a choice; an empty piece counts as content."""
    delta = ChatDelta(reasoning_content=reasoning) if reasoning else ChatDelta()
    if content or not reasoning:
        delta["content"] = content
    return delta


def _finish_reason(answer: Answer, parsed: ParsedAnswer) -> FinishReason:
    return "tool_calls" if parsed.calls else answer.finish_reason


def _chat_logprobs(logprobs: Sequence[TokenLogprob]) -> ChatLogprobs:
    return {
        "content": [
            {
                **_alternative(one.token, one.logprob),
                "top_logprobs": [_alternative(token, logprob) for token, logprob in one.top],
            }
            for one in logprobs
        ],
        "refusal": None,
    }


def _alternative(token: str, logprob: float) -> Alternative:
    """Return a token with its bytes, which are unknown for part of a character."""
    encoded = None if "\ufffd" in token else list(token.encode())
    return {"token": token, "bytes": encoded, "logprob": logprob}
