"""What a teacher is, and one that runs in this process."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from burnish.core.answerer import Answerer
from burnish.core.errors import BadRecipe
from burnish.core.recipe import Recipe
from burnish.core.records import Message, Prompt
from burnish.core.teaching import Teacher as Settings
from burnish.engines.local import LocalEngine, find_artifact, open_engine, weights_hash
from burnish.models.local import find_model

#: Asked before each request with how many would then be on their way: whether one more may begin.
MayAsk = Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of one question. `error` is empty if it was answered; `tries` counts requests."""

    text: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    finish_reason: str = "stop"
    tries: int = 1
    error: str = ""


class Teacher(Protocol):
    """Answers questions, here or elsewhere."""

    @property
    def name(self) -> str:
        """How people call it."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that its answers depend on besides the question, as JSON."""

    @property
    def is_told(self) -> bool:
        """Whether the question must say what form the answer has: not to one trained for it."""

    @property
    def engine(self) -> LocalEngine | None:
        """The engine of a local teacher, which can be timed and weighed."""

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of a question, roughly where only its owner could count."""

    def ask(self, prompts: Sequence[Prompt], may_ask: MayAsk) -> Iterator[tuple[int, Reply]]:
        """(place in `prompts`, reply) as they come.

        Once `may_ask` says no, nothing more is sent; what is on its way still comes back. Raises
        TeacherStopped if there is no point in going on.
        """


def price(settings: Settings, tokens_in: float, tokens_out: float) -> float:
    """The price of so many tokens, in the currency of the recipe."""
    return (tokens_in * settings.price_in + tokens_out * settings.price_out) / 1e6


class LocalTeacher:
    """A model, a run or an artifact folder of this machine."""

    #: Questions answered between two writes to the disk.
    BLOCK = 64

    def __init__(self, source: str, batch_size: int) -> None:
        artifact = find_artifact(source)
        self._source, self._batch_size = source, batch_size
        self._engine: LocalEngine | None = None
        named = artifact.lineage.get("run") if artifact else find_model(source).name
        self.name = str(named or source)
        self.is_told = artifact is None
        self.identity: Mapping[str, Any] = {"weights": weights_hash(source)}

    @property
    def engine(self) -> LocalEngine:
        """The teacher's engine, opened when it is needed."""
        if self._engine is None:
            self._engine = open_engine(self._source)
        return self._engine

    def rest(self) -> None:
        """Give the memory back until the next question: a student is to be trained."""
        self._engine = None

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of a question as it would be asked."""
        return self.engine.count_tokens(messages)

    def ask(self, prompts: Sequence[Prompt], may_ask: MayAsk) -> Iterator[tuple[int, Reply]]:
        """Block by block, questions of like length together."""
        sizes = [self.count_tokens(prompt.messages) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda place: sizes[place])
        for begin in range(0, len(order), self.BLOCK):
            places = order[begin : begin + self.BLOCK]
            if not may_ask(len(places)):
                return
            some = [prompts[place] for place in places]
            for place, answer in zip(
                places, self.engine.answer(some, batch_size=self._batch_size), strict=True
            ):
                yield (
                    place,
                    Reply(
                        answer.text,
                        answer.tokens_in,
                        answer.tokens_out,
                        answer.seconds,
                        answer.finish_reason,
                    ),
                )


def open_teacher(recipe: Recipe) -> Teacher:
    """The teacher of a recipe. Raises BadRecipe if none is named, NotFound if it isn't here."""
    return open_answerer(recipe.distil.teacher, "distil.teacher", recipe.evaluate.batch_size)


def open_answerer(settings: Answerer, section: str, batch_size: int) -> Teacher:
    """Whoever is named in a section of a recipe. Raises BadRecipe if nobody is, NotFound if it
    isn't here."""
    if not settings.model:
        raise BadRecipe(
            f"No {section.rpartition('.')[2]} is named.",
            f"Set {section}.model to a run or a model; for one behind an endpoint, set "
            f"{section}.endpoint too.",
        )
    if settings.endpoint:
        from burnish.engines.remote import RemoteTeacher

        return RemoteTeacher(settings, section)
    return LocalTeacher(settings.model, batch_size)
