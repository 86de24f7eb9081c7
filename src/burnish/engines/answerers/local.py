"""A teacher that runs in this process."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from burnish.core.reasoning import split_reasoning
from burnish.core.records import Message, Prompt
from burnish.engines.answerers.protocol import AnswererReply, MayAsk
from burnish.engines.local.engine import LocalEngine
from burnish.engines.local.open import open_local_engine
from burnish.models.chat_template import set_thinking
from burnish.models.find_artifact import find_artifact, hash_weights
from burnish.models.local_models import find_model


class LocalAnswerer:
    """A model, a run or an artifact folder of this machine; `thinks` asks a model that can be
    asked so to think before it answers."""

    #: Questions answered between two writes to the disk.
    BLOCK_SIZE = 64

    def __init__(self, source: str, batch_size: int, thinks: bool = False) -> None:
        artifact = find_artifact(source)
        self._source, self._batch_size = source, batch_size
        self._thinks = thinks and artifact is None  # a trained one does what it has learnt
        self._engine: LocalEngine | None = None
        named = artifact.lineage.get("run") if artifact else find_model(source).name
        self.name = str(named or source)
        self.needs_instructions = artifact is None
        self.reasoning_tokens = artifact.reasoning_tokens if artifact else 0
        self.identity: Mapping[str, Any] = {
            "weights": hash_weights(source), **({"thinks": True} if self._thinks else {})
        }  # fmt: skip

    @property
    def engine(self) -> LocalEngine:
        """The teacher's engine, opened when it is needed."""
        if self._engine is None:
            self._engine = open_local_engine(self._source)
            self._engine.tokenizer = set_thinking(self._engine.tokenizer, self._thinks)
        return self._engine

    def release_memory(self) -> None:
        """Give the memory back until the next question: a student is to be trained."""
        self._engine = None

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of a question as it would be asked."""
        return self.engine.count_tokens(messages)

    def ask(
        self, prompts: Sequence[Prompt], may_ask: MayAsk
    ) -> Iterator[tuple[int, AnswererReply]]:
        """Block by block, questions of like length together."""
        sizes = [self.count_tokens(prompt.messages) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda place: sizes[place])
        for begin in range(0, len(order), self.BLOCK_SIZE):
            places = order[begin : begin + self.BLOCK_SIZE]
            if not may_ask(len(places)):
                return
            some = [prompts[place] for place in places]
            for place, answer in zip(
                places, self.engine.answer(some, batch_size=self._batch_size), strict=True
            ):
                thought, text = split_reasoning(answer.text)
                yield (
                    place,
                    AnswererReply(
                        text,
                        answer.tokens_in,
                        answer.tokens_out,
                        answer.seconds,
                        answer.finish_reason,
                        thought=thought,
                    ),
                )
