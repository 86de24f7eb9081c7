"""A chat session: a conversation with one model that keeps its history."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from burnish.core.images import image_from_file, join_parts
from burnish.core.records import Message, Prompt
from burnish.engines.external.base import ExternalEngine
from burnish.engines.local.engine import LocalEngine


class ChatSession:
    """A conversation with one model; `ask` streams each answer."""

    def __init__(
        self, engine: LocalEngine | ExternalEngine, system: str | None, settings: Prompt
    ) -> None:
        self.engine, self.settings = engine, settings
        content = engine.system if system is None else system
        self.messages: list[Message] = [Message("system", content)] if content else []

    def ask(self, question: str, images: Sequence[Path] = ()) -> Iterator[str]:
        """Yield the pieces of the answer to a question, which may come with images.

        Raises BadData when the conversation has outgrown the model's context, or for images that it
        doesn't support; BadImage, NotFound.
        """
        content, parsed_images = join_parts((*map(image_from_file, images), question))
        self.messages.append(Message("user", content, images=parsed_images))
        pieces = []
        for piece in self.engine.stream(replace(self.settings, messages=tuple(self.messages))):
            pieces.append(piece)
            yield piece
        self.messages.append(Message("assistant", "".join(pieces)))
