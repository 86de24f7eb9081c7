"""Generation from the weights in training, by the engine's batched decoding.

A prompt is read once for all its answers.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from transformers import PreTrainedTokenizerBase

from burnish.core.records import Prompt
from burnish.engines.local.decoding import GenerationRequest
from burnish.engines.local.engine import LocalEngine
from burnish.engines.local.multi_lora import MultiLoraModel
from burnish.models.adapters.soft_prompts import required_virtual_ids
from burnish.models.proof.reference import set_attention
from burnish.train.forward.path import forward_path
from burnish.train.loop.language_model import LanguageModelModule

#: Answers generated at once: bounds the memory of their keys and values.
_BATCH_SIZE = 64


class PolicyEngine:
    """The model of a module as an engine."""

    def __init__(
        self, module: LanguageModelModule, tokenizer: PreTrainedTokenizerBase, name: str
    ) -> None:
        self.module = module
        self.engine = LocalEngine(MultiLoraModel(module.language), tokenizer, name)
        set_attention(module.language, forward_path(module.language).attention)
        self.virtual_tokens = len(required_virtual_ids(module.language))

    def request(self, prompt: Prompt, ids: Sequence[int]) -> GenerationRequest:
        """Build the request for a prompt by its token ids in a row. Raises PromptTooLong."""
        return self.engine.build_request_from_ids(prompt, ids[self.virtual_tokens :])

    def generate(self, requests: Sequence[GenerationRequest]) -> None:
        """Generate the answers, which the requests then hold."""
        by_length = sorted(requests, key=lambda request: len(request.ids))
        with self._engine_mode():
            prefix = self.engine.shared_prefix(by_length)
            for begin in range(0, len(by_length), _BATCH_SIZE):
                batch = self.engine.path.new_batch(self.module.language)
                batch.join(by_length[begin : begin + _BATCH_SIZE], prefix)
                while batch.requests:
                    batch.step()

    @contextmanager
    def _engine_mode(self) -> Iterator[None]:
        """Switch the model to evaluation mode and to the engine's attention."""
        self.module.model.eval()
        set_attention(self.module.language, self.engine.path.attention)
        try:
            yield
        finally:
            set_attention(self.module.language, forward_path(self.module.language).attention)


def answer_seed(*position: int) -> int:
    """Return the seed of one answer's random generator, by its position in the run."""
    return int.from_bytes(hashlib.sha256(repr(position).encode()).digest()[:7], "big")
