"""What engines in a child have in common: one prompt after the other, asked with our own tokens.

Prompts are rendered and encoded by `models.chat`, as the model was trained. Exactly one of several
texts is found by log-probabilities that the child tells.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from burnish.core.errors import PromptTooLong
from burnish.core.records import Answer, Message, Prompt, Row
from burnish.engines.child import Child
from burnish.engines.choices import Table, choice_tokens, choice_tree, likeliest
from burnish.models.chat import encode_prompt, encode_row


class ChildEngine(ABC):
    """An engine whose `child` answers; `close` ends its process."""

    name: str
    system: str | None
    tokenizer: PreTrainedTokenizerBase
    ends: frozenset[int]
    child: Child
    #: Tokens that prompt and answer may have together.
    context_length: int

    @abstractmethod
    def table(self, ids: Sequence[int], wanted: Sequence[int], ahead: int = 1) -> Table:
        """Log-probabilities behind the tokens `ids`; `wanted` are those that will be asked for,
        and an answer has up to `ahead` of them."""

    @abstractmethod
    def write(self, prompt: Prompt, ids: Sequence[int], begun: float) -> Answer:
        """A free answer to a prompt of these tokens; its seconds count from `begun`."""

    def close(self) -> None:
        """End the child."""
        self.child.close()

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        batch_size: int = 16,
        advance: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """One answer a prompt, one after the other. Raises PromptTooLong, EngineFailed."""
        answers = []
        for prompt in prompts:
            begun = time.perf_counter()
            ids = encode_prompt(self.tokenizer, prompt.messages, prompt.tools)
            if len(ids) + prompt.max_new_tokens > self.context_length:
                raise PromptTooLong(
                    f"The prompt has {len(ids)} tokens and asks for up to "
                    f"{prompt.max_new_tokens} more; the engine's context holds "
                    f"{self.context_length}.",
                    "Shorten the prompt, or ask for a shorter answer.",
                )
            made = self._choose if prompt.choices else self.write
            answers.append(made(prompt, ids, begun))
            if advance:
                advance(1)
        return answers

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of a prompt as it would be asked."""
        return len(encode_prompt(self.tokenizer, messages))

    def log_likelihood(self, rows: Sequence[Row]) -> list[tuple[float, int]]:
        """For each row, the log-probability (nats) of its answer, and the answer's tokens."""
        found = []
        for row in rows:
            encoded = encode_row(self.tokenizer, row, self.context_length)
            learnt = [place for place, weight in enumerate(encoded.weights) if weight > 0]
            first = learnt[0]
            table = self.table(encoded.ids[:first], sorted({encoded.ids[p] for p in learnt}))
            logs = [_log(table, encoded.ids[first:place], encoded.ids[place]) for place in learnt]
            found.append((sum(logs), len(logs)))
        return found

    def _choose(self, prompt: Prompt, ids: Sequence[int], begun: float) -> Answer:
        texts = choice_tokens(self.tokenizer, self.ends, prompt.choices)
        wanted = sorted({token for text in texts for token in text})
        chosen = likeliest(choice_tree(texts), self.table(ids, wanted, max(map(len, texts))))
        return Answer(
            text=prompt.choices[chosen],
            tokens_in=len(ids),
            tokens_out=len(texts[chosen]) - 1,
            seconds=time.perf_counter() - begun,
        )


def _log(table: Table, behind: Sequence[int], token: int) -> float:
    """The log-probability of `token` behind the prompt and the tokens `behind`."""
    logs, _ = table.shown(tuple(behind))
    return logs[token] if token in logs else table.everything(tuple(behind))[token]
