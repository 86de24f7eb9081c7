"""The list of checks. Each says what the hosted API does, and what ours does if that differs."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import openai

SAME = "the same"
BOTH = ("OpenAI", "AzureOpenAI")


@dataclass(frozen=True)
class World:
    """The server that is asked: its address behind and without /v1, a key, a finished job."""

    address: str
    key: str
    job: Any

    @property
    def root(self) -> str:
        return self.address.removesuffix("/v1")

    @property
    def tuned(self) -> str:
        return self.job.fine_tuned_model

    def client(self, kind: str, **settings: Any) -> Any:
        """A client by its class's name."""
        settings = {"api_key": self.key, "max_retries": 0, **settings}
        made = getattr(openai, kind)
        if "Azure" in kind:
            return made(azure_endpoint=self.root, api_version="2024-10-21", **settings)
        return made(base_url=self.address, **settings)


@dataclass(frozen=True)
class Check:
    """One behaviour. `run` (client, world) raises if ours isn't what is said here."""

    area: str
    openai: str
    ours: str
    clients: tuple[str, ...]
    run: Callable[[Any, World], Any]

    @property
    def name(self) -> str:
        return self.run.__name__.replace("_", " ")


CHECKS: list[Check] = []


def check(
    area: str, openai: str, ours: str = SAME, clients: tuple[str, ...] = BOTH
) -> Callable[[Callable[[Any, World], Any]], Callable[[Any, World], Any]]:
    """Put a check on the list."""

    def register(run: Callable[[Any, World], Any]) -> Callable[[Any, World], Any]:
        CHECKS.append(Check(area, openai, ours, clients, run))
        return run

    return register


def refused(kind: type[openai.APIStatusError], call: Callable[[], Any]) -> Any:
    """The error of that class that `call` has to raise."""
    try:
        call()
    except kind as error:
        assert error.message and error.request_id
        return error
    raise AssertionError(f"no {kind.__name__}")


def until(look: Callable[[], Any]) -> Any:
    """What `look` gives as soon as it gives something."""
    for _ in range(900):
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError("it never came")
