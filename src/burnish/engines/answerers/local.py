"""A teacher that runs in this process."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from burnish.core.reasoning import apart
from burnish.core.records import Message, Prompt
from burnish.engines.answerers.protocol import MayAsk, Reply
from burnish.engines.local.engine import LocalEngine
from burnish.engines.local.open import open_engine
from burnish.models.chat_template import switched
from burnish.models.find_artifact import find_artifact, weights_hash
from burnish.models.local_models import find_model


class LocalTeacher:
    """A model, a run or an artifact folder of this machine; `thinks` asks a model that can be
    asked so to think before it answers."""

    #: Questions answered between two writes to the disk.
    BLOCK = 64

    def __init__(self, source: str, batch_size: int, thinks: bool = False) -> None:
        artifact = find_artifact(source)
        self._source, self._batch_size = source, batch_size
        self._thinks = thinks and artifact is None  # a trained one does what it has learnt
        self._engine: LocalEngine | None = None
        named = artifact.lineage.get("run") if artifact else find_model(source).name
        self.name = str(named or source)
        self.is_told = artifact is None
        self.thoughts = artifact.thoughts if artifact else 0
        self.identity: Mapping[str, Any] = {
            "weights": weights_hash(source), **({"thinks": True} if self._thinks else {})
        }  # fmt: skip

    @property
    def engine(self) -> LocalEngine:
        """The teacher's engine, opened when it is needed."""
        if self._engine is None:
            self._engine = open_engine(self._source)
            self._engine.tokenizer = switched(self._engine.tokenizer, self._thinks)
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
                thought, text = apart(answer.text)
                yield (
                    place,
                    Reply(
                        text,
                        answer.tokens_in,
                        answer.tokens_out,
                        answer.seconds,
                        answer.finish_reason,
                        thought=thought,
                    ),
                )
