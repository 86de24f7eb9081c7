"""The model under training answers questions, by the engine's batched decoding and from the very
weights that are trained; a question is read once for all its answers."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from transformers import PreTrainedTokenizerBase

from burnish.core.records import Prompt
from burnish.engines.local.decoding import GenerationRequest
from burnish.engines.local.engine import LocalEngine
from burnish.engines.local.multi_lora import MultiLoraModel
from burnish.models.adapters.soft_prompts import required_virtual_ids
from burnish.models.proof import set_attention
from burnish.train.forward.path import forward_path
from burnish.train.loop.language_model import LanguageModelModule

#: Answers made at once: bounds the memory of their keys and values.
_AT_ONCE = 64


class PolicyEngine:
    """A plan's model as an engine."""

    def __init__(
        self, plan: LanguageModelModule, tokenizer: PreTrainedTokenizerBase, name: str
    ) -> None:
        self.plan = plan
        self.engine = LocalEngine(MultiLoraModel(plan.language), tokenizer, name)
        set_attention(plan.language, forward_path(plan.language).attention)
        self.before = len(required_virtual_ids(plan.language))

    def request(self, prompt: Prompt, ids: Sequence[int]) -> GenerationRequest:
        """A question, by the tokens that a row has for it. Raises PromptTooLong."""
        return self.engine.build_request_from_ids(prompt, ids[self.before :])

    def generate(self, requests: Sequence[GenerationRequest]) -> None:
        """Make the answers, which the requests then hold."""
        order = sorted(requests, key=lambda one: len(one.ids))
        with self._engine_mode():
            prefix = self.engine.shared_prefix(order)
            for begin in range(0, len(order), _AT_ONCE):
                running = self.engine.path.new_batch(self.plan.language)
                running.join(order[begin : begin + _AT_ONCE], prefix)
                while running.requests:
                    running.step()

    @contextmanager
    def _engine_mode(self) -> Iterator[None]:
        """The model as an engine has it: without dropout, with keys and values kept."""
        self.plan.model.eval()
        set_attention(self.plan.language, self.engine.path.attention)
        try:
            yield
        finally:
            set_attention(self.plan.language, forward_path(self.plan.language).attention)


def answer_seed(*place: int) -> int:
    """The seed of the random generator of one answer, by where it stands in the run."""
    return int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:7], "big")
