"""A conversation with one model, which remembers what was said."""

from collections.abc import Iterator
from dataclasses import replace

from burnish.core.records import Message, Prompt
from burnish.engines.alone import ChildEngine
from burnish.engines.local import LocalEngine


class Chat:
    """A conversation with one model; `ask` gives the pieces of an answer as they are made."""

    def __init__(
        self, engine: LocalEngine | ChildEngine, system: str | None, settings: Prompt
    ) -> None:
        self.engine, self.settings = engine, settings
        told = engine.system if system is None else system
        self.messages: list[Message] = [Message("system", told)] if told else []

    def ask(self, question: str) -> Iterator[str]:
        """Raises BadData when the conversation has outgrown the model's context."""
        self.messages.append(Message("user", question))
        pieces = []
        for piece in self.engine.stream(replace(self.settings, messages=tuple(self.messages))):
            pieces.append(piece)
            yield piece
        self.messages.append(Message("assistant", "".join(pieces)))
