"""A teacher behind an OpenAI-compatible endpoint: many requests at once, each tried again.

A failure is a request that gave no answer: a server's fault (5xx, 408, 409), a time-out, a broken
connection, or a reply that can't be read; it is tried again after a pause that grows, with some
chance in it (exponential back-off with full jitter). "Too many requests" (429) is no failure but
the provider's pace: the request waits as long as `Retry-After` says. An endpoint that has answered
before and can't be reached is waited for.
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
#: Letters of a token, about, where only the endpoint has the tokenizer.
_CHARS_PER_TOKEN = 3.5
#: Answers that no further question would change: all would fail alike. And what to do.
_FATAL_STATUSES = {
    401: "Set {section}.key_from to the environment variable that holds the key.",
    403: "The key may not use this model: see the provider's console.",
    404: "Check {section}.endpoint (it ends before /chat/completions) and .model.",
}
_RETRIED_STATUSES = {408, 409}


class RemoteAnswerer:
    """A model behind an endpoint. Raises BadRecipe if its key is named and isn't there."""

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
        """Tokens of a question, from its letters."""
        return round(sum(len(message.content) / _CHARS_PER_TOKEN + 4 for message in messages))

    def ask(
        self, prompts: Sequence[Prompt], may_ask: MayAsk
    ) -> Iterator[tuple[int, AnswererReply]]:
        """As many requests at once as the recipe says; replies in the order in which they come."""
        waiting: Iterator[tuple[int, Prompt]] = iter(enumerate(prompts))
        under_way: dict[Future[AnswererReply], int] = {}
        fault: TeacherStopped | None = None
        self._stop.clear()
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            try:
                while True:
                    while len(under_way) < self.settings.concurrency:
                        if (due := next(waiting, None)) is None:
                            break
                        if not may_ask(len(under_way) + 1):
                            waiting = iter(())
                            break
                        under_way[pool.submit(self._ask_with_retries, due[1])] = due[0]
                    if not under_way:
                        break
                    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                        place = under_way.pop(future)
                        try:
                            reply = future.result()
                        except TeacherStopped as error:
                            # What the others bring home is still handed on.
                            fault, waiting = error, iter(())
                            self._stop.set()
                        else:
                            yield place, reply
            finally:
                self._stop.set()
        if fault:
            raise fault

    def _ask_with_retries(self, prompt: Prompt) -> AnswererReply:
        """One question, tried until it is answered or the tries are used up."""
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
        said = f"{self.name} answers {response.status_code}: {_excerpt(response)}"
        return TeacherStopped(
            said, _FATAL_STATUSES[response.status_code].format(section=self._section)
        )

    def _with_token_counts(self, reply: AnswererReply, prompt: Prompt) -> AnswererReply:
        """The reply with its tokens, from their letters where the endpoint doesn't count them."""
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
                "Check the address and the network, then repeat the command: it asks only what "
                "isn't answered yet.",
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
    """At most so many requests a minute, evenly apart, whoever sends them."""

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
    """The reply in a response, or what is wrong with it."""
    status = response.status_code
    if status != 200:
        return None, f"status {status}: {_excerpt(response)}"
    try:
        body = response.json()
        choice, usage = body["choices"][0], body.get("usage") or {}
        message = choice["message"]
        thought, text = split_reasoning(message.get("content") or "")
        # Servers that take thoughts apart themselves call them so (DeepSeek, vLLM).
        told = message.get("reasoning_content") or message.get("reasoning") or ""
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
            thought=thought or str(told),
        ),
        "",
    )


def _excerpt(response: httpx2.Response) -> str:
    return " ".join(response.text.split())[:200]


def _backoff_seconds(tries: int) -> float:
    """Seconds before the next try: up to twice as long each time."""
    longest: float = min(_FIRST_PAUSE * 2.0 ** (tries - 1), _LONGEST_PAUSE)
    return random.uniform(0, longest)


def _retry_after(response: httpx2.Response) -> float:
    """Seconds that the response asks to wait (a number or a date, RFC 9110); 0 if it doesn't."""
    said = response.headers.get("retry-after", "")
    try:
        return max(float(said), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(said).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return 0.0
