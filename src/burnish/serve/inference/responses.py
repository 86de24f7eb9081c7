"""From the engine's answers to bodies and chunks on the wire."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

from burnish.core.records import Answer, TokenLogprob
from burnish.serve.inference.tool_calls import AnswerParser, ParsedAnswer, parse_answer


def usage(answers: Sequence[Answer], prompts: Sequence[Answer]) -> dict[str, Any]:
    """Tokens read and made; a prompt that is answered several times is counted once."""
    asked = sum(answer.tokens_in for answer in prompts)
    made = sum(answer.tokens_out for answer in answers)
    return {
        "prompt_tokens": asked,
        "completion_tokens": made,
        "total_tokens": asked + made,
        "prompt_tokens_details": {"cached_tokens": sum(one.tokens_cached for one in prompts)},
    }


@dataclass(slots=True)
class ChatFormatter:
    """Shapes answers as `chat.completion` and `chat.completion.chunk`."""

    model: str
    with_logprobs: bool
    #: The functions that may be called.
    functions: Collection[str] = ()
    id: str = field(default_factory=lambda: f"chatcmpl-{token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    parsers: dict[int, AnswerParser] = field(default_factory=dict)

    def full_body(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The body of a request that isn't streamed."""
        return {
            **self._header("chat.completion"),
            "choices": [self._choice(*numbered) for numbered in enumerate(answers)],
            "usage": usage(answers, answers[:1]),
        }

    def first_chunk(self, index: int) -> dict[str, Any]:
        """The chunk that names the role of a choice."""
        return self._chunk(index, {"role": "assistant", "content": ""}, (), None)

    def text_chunk(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob]
    ) -> dict[str, Any] | None:
        """The chunk that carries more of a choice's thought or words; none while it isn't known
        what it is."""
        watch = self._parser(index)
        watch.held_logprobs += logprobs
        thought, words = watch.feed(text)
        if not (thought or words) and (text or self.functions):
            return None
        logprobs, watch.held_logprobs = watch.held_logprobs, []
        return self._chunk(index, _delta(thought, words), logprobs, None)

    def final_chunks(self, index: int, answer: Answer) -> list[dict[str, Any]]:
        """The chunks that bring what was held back, and say why a choice ended."""
        said, watch = self._parse(answer), self._parser(index)
        chunks, (thought, words) = [], watch.end()
        if said.calls:
            numbered = [{"index": place, **call} for place, call in enumerate(said.calls)]
            chunks.append(self._chunk(index, {"tool_calls": numbered}, watch.held_logprobs, None))
        elif thought or words:
            chunks.append(self._chunk(index, _delta(thought, words), watch.held_logprobs, None))
        return [*chunks, self._chunk(index, {}, (), _finish_reason(answer, said))]

    def usage_chunk(self, answers: Sequence[Answer], per_prompt: int) -> dict[str, Any]:
        """The chunk of `stream_options.include_usage`."""
        counted = usage(answers, answers[::per_prompt])
        return {**self._header("chat.completion.chunk"), "choices": [], "usage": counted}

    def _header(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _parser(self, index: int) -> AnswerParser:
        return self.parsers.setdefault(index, AnswerParser(bool(self.functions)))

    def _parse(self, answer: Answer) -> ParsedAnswer:
        return parse_answer(answer.text, self.functions)

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        said = self._parse(answer)
        message: dict[str, Any] = {"role": "assistant", "content": said.text, "refusal": None}
        if said.reasoning:
            message["reasoning_content"] = said.reasoning
        if said.calls:
            message |= {"content": said.text or None, "tool_calls": said.calls}
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(answer.logprobs) if self.with_logprobs else None,
            "finish_reason": _finish_reason(answer, said),
        }

    def _chunk(
        self,
        index: int,
        delta: Mapping[str, Any],
        logprobs: Sequence[TokenLogprob],
        finish: str | None,
    ) -> dict[str, Any]:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(logprobs) if logprobs else None,
            "finish_reason": finish,
        }
        return {**self._header("chat.completion.chunk"), "choices": [choice]}

    def _logprobs(self, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        content = [
            {
                **_token_entry(one.token, one.logprob),
                "top_logprobs": [_token_entry(token, logprob) for token, logprob in one.top],
            }
            for one in logprobs
        ]
        return {"content": content, "refusal": None}


@dataclass(slots=True)
class CompletionFormatter:
    """Shapes answers as `text_completion`; `offsets` are the lengths of each choice's prompt."""

    model: str
    with_logprobs: bool
    prompt_lengths: Sequence[int]
    per_prompt: int
    id: str = field(default_factory=lambda: f"cmpl-{token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def full_body(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The body of a request that isn't streamed."""
        choices = [
            self._choice(index, answer.text, answer.logprobs, answer.finish_reason)
            for index, answer in enumerate(answers)
        ]
        counted = usage(answers, answers[:: self.per_prompt])
        return {**self._header(), "choices": choices, "usage": counted}

    def first_chunk(self, index: int) -> None:
        """Plain completions name no role."""

    def text_chunk(self, index: int, text: str, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The chunk that carries more text of a choice."""
        return {**self._header(), "choices": [self._choice(index, text, logprobs, None)]}

    def final_chunks(self, index: int, answer: Answer) -> list[dict[str, Any]]:
        """The chunk that says why a choice ended."""
        return [{**self._header(), "choices": [self._choice(index, "", (), answer.finish_reason)]}]

    def usage_chunk(self, answers: Sequence[Answer], per_prompt: int) -> dict[str, Any]:
        """The chunk of `stream_options.include_usage`."""
        return {**self._header(), "choices": [], "usage": usage(answers, answers[::per_prompt])}

    def _header(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
        }

    def _choice(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob], finish: str | None
    ) -> dict[str, Any]:
        shown = self._logprobs(index, logprobs) if self.with_logprobs else None
        return {"index": index, "text": text, "logprobs": shown, "finish_reason": finish}

    def _logprobs(self, index: int, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
        offsets, place = [], self.prompt_lengths[index]
        for one in logprobs:
            offsets.append(place)
            place += len(one.token)
        return {
            "tokens": [one.token for one in logprobs],
            "token_logprobs": [one.logprob for one in logprobs],
            "top_logprobs": [dict(one.top) for one in logprobs],
            "text_offset": offsets,
        }


def _delta(thought: str, words: str) -> dict[str, str]:
    """What is new of a choice. An empty piece is one of its words."""
    delta = {"reasoning_content": thought} if thought else {}
    return {**delta, "content": words} if words or not thought else delta


def _finish_reason(answer: Answer, said: ParsedAnswer) -> str:
    return "tool_calls" if said.calls else answer.finish_reason


def _token_entry(token: str, logprob: float) -> dict[str, Any]:
    """A token with its bytes; part of a character has none that can be named."""
    raw = None if "\ufffd" in token else list(token.encode())
    return {"token": token, "bytes": raw, "logprob": logprob}
