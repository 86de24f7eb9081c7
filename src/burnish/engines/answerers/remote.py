"""A teacher or judge behind an OpenAI-compatible endpoint: concurrent requests with retries.

A failure is a request without an answer: a server error (5xx, 408, 409), a time-out, a broken
connection, or an unreadable reply; it is retried after exponential back-off with full jitter. "Too
many requests" (429) isn't a failure: the request waits as long as `Retry-After` says. An endpoint
that has answered before and becomes unreachable is waited for.
"""

import email.utils
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import httpx2

from burnish.core.errors import BadRecipe, TeacherStopped
from burnish.core.reasoning import split_reasoning
from burnish.core.recipe.endpoint import ModelEndpoint
from burnish.core.records import Message, Prompt
from burnish.core.settings import secret
from burnish.engines.answerers.protocol import AnswererReply, MayAsk
from burnish.engines.remote.http import is_loopback

#: Seconds of the first pause and of the longest one.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
#: Approximate characters per token, as only the endpoint has the tokenizer.
_CHARS_PER_TOKEN = 3.5
#: Statuses that every further request would get too, and the remedy.
_FATAL_STATUSES = {
    401: "Set {section}.key_from to the environment variable that holds the key.",
    403: "The key may not use this model: see the provider's console.",
    404: "Check {section}.endpoint (it ends before /chat/completions) and .model.",
}
_RETRIED_STATUSES = {408, 409}


class RemoteAnswerer:
    """A model behind an endpoint. Raises BadRecipe if its key is named but empty."""

    needs_instructions = True
    reasoning_tokens = 0
    engine = None

    def __init__(self, settings: ModelEndpoint, section: str = "distill.teacher") -> None:
        self.settings, self.name, self._section = settings, settings.model, section
        endpoint = settings.endpoint.rstrip("/")
        self.identity: Mapping[str, Any] = {"endpoint": endpoint, "model": settings.model}
        headers = {}
        if settings.key_from:
            key = secret(settings.key_from)
            if not key:
                raise BadRecipe(
                    f"The environment variable {settings.key_from} is empty.",
                    "Put the endpoint's key into it; burnish never writes it down.",
                )
            headers["Authorization"] = f"Bearer {key}"
        self._url = f"{endpoint}/chat/completions"
        self._client = httpx2.Client(
            headers=headers,
            timeout=settings.timeout,
            limits=httpx2.Limits(max_connections=settings.concurrency),
            trust_env=not is_loopback(endpoint),
        )
        self._pace = _RequestPacer(settings.requests_per_minute)
        self._answered, self._stop = threading.Event(), threading.Event()

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Estimate the number of tokens of a question from its characters."""
        return round(sum(len(message.content) / _CHARS_PER_TOKEN + 4 for message in messages))

    def ask(
        self, prompts: Sequence[Prompt], may_ask: MayAsk
    ) -> Iterator[tuple[int, AnswererReply]]:
        """Send as many concurrent requests as the recipe allows; yield replies as they arrive."""
        waiting: Iterator[tuple[int, Prompt]] = iter(enumerate(prompts))
        in_flight: dict[Future[AnswererReply], int] = {}
        fault: TeacherStopped | None = None
        self._stop.clear()
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            try:
                while True:
                    while len(in_flight) < self.settings.concurrency:
                        if (next_prompt := next(waiting, None)) is None:
                            break
                        if not may_ask(len(in_flight) + 1):
                            waiting = iter(())
                            break
                        in_flight[pool.submit(self._ask_with_retries, next_prompt[1])] = (
                            next_prompt[0]
                        )
                    if not in_flight:
                        break
                    for future in wait(in_flight, return_when=FIRST_COMPLETED).done:
                        index = in_flight.pop(future)
                        try:
                            reply = future.result()
                        except TeacherStopped as error:
                            # Replies still in flight are handed on.
                            fault, waiting = error, iter(())
                            self._stop.set()
                        else:
                            yield index, reply
            finally:
                self._stop.set()
        if fault:
            raise fault

    def _ask_with_retries(self, prompt: Prompt) -> AnswererReply:
        """Ask one question until it is answered or the retries are used up."""
        error, lost_since = "", 0.0
        tries = paused = 0
        while tries <= self.settings.retries and not self._stop.is_set():
            self._pace.wait(self._stop)
            begun = time.perf_counter()
            try:
                response = self._client.post(self._url, json=self._request_body(prompt))
            except httpx2.ConnectError as fault:
                lost_since = lost_since or time.monotonic()
                self._give_up_if_unreachable(fault, time.monotonic() - lost_since)
                paused += 1
                self._stop.wait(_backoff_seconds(paused))
                continue
            except httpx2.HTTPError as fault:
                tries, error = tries + 1, f"{type(fault).__name__}: {fault}"
                self._stop.wait(_backoff_seconds(tries))
                continue
            lost_since = 0.0
            if response.status_code == 429:
                paused += 1
                self._stop.wait(_retry_after(response) or _backoff_seconds(paused))
                continue
            tries += 1
            if response.status_code in _FATAL_STATUSES:
                raise self._fatal_error(response)
            reply, error = _parse_reply(response, tries, time.perf_counter() - begun)
            if reply:
                self._answered.set()
                return self._with_token_counts(reply, prompt)
            if response.status_code < 500 and response.status_code not in {200, *_RETRIED_STATUSES}:
                break
            self._stop.wait(_retry_after(response) or _backoff_seconds(tries))
        return AnswererReply(tries=tries, error=error or "stopped before it was answered")

    def _fatal_error(self, response: httpx2.Response) -> TeacherStopped:
        message = f"{self.name} answers {response.status_code}: {_excerpt(response)}"
        return TeacherStopped(
            message, _FATAL_STATUSES[response.status_code].format(section=self._section)
        )

    def _with_token_counts(self, reply: AnswererReply, prompt: Prompt) -> AnswererReply:
        """Return the reply with token counts, estimated where the endpoint doesn't report them."""
        if reply.tokens_in:
            return reply
        tokens_in = self.count_tokens(prompt.messages)
        return replace(
            reply, tokens_in=tokens_in, tokens_out=round(len(reply.text) / _CHARS_PER_TOKEN)
        )

    def _give_up_if_unreachable(self, fault: Exception, seconds: float) -> None:
        if not self._answered.is_set() or seconds > self.settings.patience:
            raise TeacherStopped(
                f"{self._url} can't be reached: {fault}",
                "Check the address and the network, then repeat the command: it asks only "
                "unanswered questions.",
            ) from fault

    def _request_body(self, prompt: Prompt) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.settings.model,
            "messages": [message.as_wire() for message in prompt.messages],
            "max_tokens": prompt.max_new_tokens,
            "temperature": prompt.temperature,
            "top_p": prompt.top_p,
        }
        return body if prompt.seed is None else {**body, "seed": prompt.seed}


class _RequestPacer:
    """Limits requests to `per_minute`, evenly spaced, across threads."""

    def __init__(self, per_minute: int | None) -> None:
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next, self._lock = 0.0, threading.Lock()

    def wait(self, stop: threading.Event) -> None:
        """Wait for the next turn."""
        if not self._gap:
            return
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._gap
        stop.wait(max(turn - time.monotonic(), 0))


def _parse_reply(
    response: httpx2.Response, tries: int, seconds: float
) -> tuple[AnswererReply | None, str]:
    """Return the reply in a response, or an error."""
    status = response.status_code
    if status != 200:
        return None, f"status {status}: {_excerpt(response)}"
    try:
        body = response.json()
        choice, usage = body["choices"][0], body.get("usage") or {}
        message = choice["message"]
        reasoning, text = split_reasoning(message.get("content") or "")
        # Servers that separate the reasoning use these names (DeepSeek, vLLM).
        separate_reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    except (ValueError, LookupError, TypeError, AttributeError):
        return None, f"no chat completion: {_excerpt(response)}"
    return (
        AnswererReply(
            text=text,
            tokens_in=int(usage.get("prompt_tokens") or 0),
            tokens_out=int(usage.get("completion_tokens") or 0),
            seconds=seconds,
            finish_reason=str(choice.get("finish_reason") or "stop"),
            tries=tries,
            thought=reasoning or str(separate_reasoning),
        ),
        "",
    )


def _excerpt(response: httpx2.Response) -> str:
    return " ".join(response.text.split())[:200]


def _backoff_seconds(tries: int) -> float:
    """Return the seconds before the next try: the upper bound doubles each time."""
    longest: float = min(_FIRST_PAUSE * 2.0 ** (tries - 1), _LONGEST_PAUSE)
    return random.uniform(0, longest)


def _retry_after(response: httpx2.Response) -> float:
    """Return the seconds that the response asks to wait (a number or a date, RFC 9110); 0 if
    none."""
    header = response.headers.get("retry-after", "")
    try:
        return max(float(header), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return 0.0
