"""A teacher or judge that runs in this process."""

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
    """A local model, run or artifact folder; `thinks` turns on reasoning where the template has a
    switch."""

    #: Questions answered between two writes to disk.
    BLOCK_SIZE = 64

    def __init__(self, source: str, batch_size: int, thinks: bool = False) -> None:
        artifact = find_artifact(source)
        self._source, self._batch_size = source, batch_size
        self._thinks = thinks and artifact is None  # a trained model's template fixes this
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
        """The teacher's engine, opened on first use."""
        if self._engine is None:
            self._engine = open_local_engine(self._source)
            self._engine.tokenizer = set_thinking(self._engine.tokenizer, self._thinks)
        return self._engine

    def release_memory(self) -> None:
        """Free the engine's memory until the next question, for a student's training."""
        self._engine = None

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Return the number of tokens of a question, rendered."""
        return self.engine.count_tokens(messages)

    def ask(
        self, prompts: Sequence[Prompt], may_ask: MayAsk
    ) -> Iterator[tuple[int, AnswererReply]]:
        """Answer block by block, questions of similar length together."""
        sizes = [self.count_tokens(prompt.messages) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda index: sizes[index])
        for begin in range(0, len(order), self.BLOCK_SIZE):
            indices = order[begin : begin + self.BLOCK_SIZE]
            if not may_ask(len(indices)):
                return
            block = [prompts[index] for index in indices]
            for index, answer in zip(
                indices, self.engine.answer(block, batch_size=self._batch_size), strict=True
            ):
                reasoning, text = split_reasoning(answer.text)
                yield (
                    index,
                    AnswererReply(
                        text,
                        answer.tokens_in,
                        answer.tokens_out,
                        answer.seconds,
                        answer.finish_reason,
                        thought=reasoning,
                    ),
                )
