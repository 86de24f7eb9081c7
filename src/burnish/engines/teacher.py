"""What a teacher is. Whoever only reads what one has said needs no model, and loads none."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from burnish.core.answerer import Answerer
from burnish.core.errors import BadRecipe
from burnish.core.recipe import Recipe
from burnish.core.records import Message, Prompt
from burnish.core.teaching import Teacher as Settings

if TYPE_CHECKING:
    from burnish.engines.local import LocalEngine

#: Asked before each request with how many would then be on their way: whether one more may begin.
MayAsk = Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of one question. `error` is empty if it was answered; `tries` counts requests.
    `thought` is what a teacher that reasons aloud said before its answer."""

    text: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    finish_reason: str = "stop"
    tries: int = 1
    error: str = ""
    thought: str = ""


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
    def thoughts(self) -> int:
        """Tokens of room for the thoughts that it was trained to have; 0 if that isn't known."""

    @property
    def engine(self) -> "LocalEngine | None":
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


def open_teacher(recipe: Recipe) -> Teacher:
    """The teacher of a recipe. Raises BadRecipe if none is named, NotFound if it isn't here."""
    thinks, batch_size = recipe.distil.thoughts != "cut", recipe.evaluate.batch_size
    return open_answerer(recipe.distil.teacher, "distil.teacher", batch_size, thinks)


def open_answerer(
    settings: Answerer, section: str, batch_size: int, thinks: bool = False
) -> Teacher:
    """Whoever is named in a section of a recipe; `thinks` asks one of this machine to think first,
    where it can be asked so. Raises BadRecipe if nobody is, NotFound if it isn't here."""
    if not settings.model:
        raise BadRecipe(
            f"No {section.rpartition('.')[2]} is named.",
            f"Set {section}.model to a run or a model; for one behind an endpoint, set "
            f"{section}.endpoint too.",
        )
    if settings.endpoint:
        from burnish.engines.remote import RemoteTeacher

        return RemoteTeacher(settings, section)
    from burnish.engines.local_teacher import LocalTeacher

    return LocalTeacher(settings.model, batch_size, thinks)
