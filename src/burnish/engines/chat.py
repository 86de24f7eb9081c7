"""A conversation with one model, which remembers what was said."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from burnish.core.images import image_from_file, join_parts
from burnish.core.records import Message, Prompt
from burnish.engines.external.base import ExternalEngine
from burnish.engines.local.engine import LocalEngine


class ChatSession:
    """A conversation with one model; `ask` gives the pieces of an answer as they are made."""

    def __init__(
        self, engine: LocalEngine | ExternalEngine, system: str | None, settings: Prompt
    ) -> None:
        self.engine, self.settings = engine, settings
        told = engine.system if system is None else system
        self.messages: list[Message] = [Message("system", told)] if told else []

    def ask(self, question: str, images: Sequence[Path] = ()) -> Iterator[str]:
        """The pieces of the answer to a question, with pictures before it if there are any.

        Raises BadData when the conversation has outgrown the model's context, or for pictures that
        it can't see; BadPicture, NotFound.
        """
        content, pictures = join_parts((*map(image_from_file, images), question))
        self.messages.append(Message("user", content, images=pictures))
        pieces = []
        for piece in self.engine.stream(replace(self.settings, messages=tuple(self.messages))):
            pieces.append(piece)
            yield piece
        self.messages.append(Message("assistant", "".join(pieces)))
