"""Encoder-decoders in this process: T5, BART and what else transformers knows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from burnish.core.errors import PromptTooLong
from burnish.core.records import Prompt, Row
from burnish.engines.local.decoding import Batch, GenerationRequest, Prefix
from burnish.engines.local.engine import LocalEngine
from burnish.engines.local.multi_lora import MultiLoraModel
from burnish.engines.local.seq2seq_batch import Seq2SeqBatch, decoder_prefix, encode_sources
from burnish.models.artifact import Artifact
from burnish.models.chat_template import encode_pair, encode_target
from burnish.models.load import load_tokenizer
from burnish.models.local_models import LocalModel
from burnish.models.padding import pad_batch
from burnish.models.seq2seq import load_seq2seq, load_trained_seq2seq, max_lengths, shift_right

#: Texts that are judged in one pass.
_BATCH_SIZE = 32


class Seq2SeqEngine(LocalEngine):
    """Answers with one encoder-decoder. Question and answer have a side each, so that neither takes
    the other's room."""

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, name: str, system: str | None = None
    ) -> None:
        super().__init__(MultiLoraModel(model), tokenizer, name, system=system)
        self.begin = decoder_prefix(model, tokenizer)
        source, target = max_lengths(model.config)
        #: The most tokens of a question, and of an answer's own.
        self.sides = source, target - len(self.begin)

    @property
    def context_length(self) -> int:
        """Tokens of both sides together."""
        return sum(self.sides)

    def build_request_from_ids(self, prompt: Prompt, ids: Sequence[int]) -> GenerationRequest:
        """A prompt with its tokens; its answer is no longer than the decoder can make it.

        Raises PromptTooLong if the encoder can't read it.
        """
        if len(ids) > self.sides[0]:
            raise PromptTooLong(
                f"The prompt has {len(ids)} tokens; the model's encoder reads {self.sides[0]}.",
                "Shorten the prompt.",
            )
        most = min(prompt.max_new_tokens, self.sides[1])
        return GenerationRequest(
            replace(prompt, max_new_tokens=most), ids, self.ends, self.tokenizer
        )

    def new_batch(self) -> Batch:
        """An empty batch for its requests."""
        return Seq2SeqBatch(self.model)

    def read_prefix(self, ids: Sequence[int], begin: Prefix | None = None) -> Prefix | None:
        """None: an encoder's beginning depends on what comes behind it."""
        return None

    def choose(self, requests: Sequence[GenerationRequest], prefix: Prefix | None = None) -> None:
        """Answer with exactly one of each request's choices: the likeliest."""
        for request in requests:
            choices = request.prompt.choices
            targets = [encode_target(self.tokenizer, choice) for choice in choices]
            logs = self._log_probs(request, targets)
            number = max(range(len(choices)), key=lambda place: logs[place])
            request.text, request.finish = choices[number], "stop"
            request.token_ids = targets[number][:-1]

    def log_likelihood(self, rows: Sequence[Row]) -> list[tuple[float, int]]:
        """For each row, the log-probability (nats) of its answer, and the answer's tokens."""
        found = []
        for row in rows:
            source, target = encode_pair(self.tokenizer, row)
            request = self.build_request_from_ids(Prompt(row.prompt), source)
            found.append((self._log_probs(request, [target])[0], len(target)))
        return found

    @torch.inference_mode()
    def _log_probs(
        self, request: GenerationRequest, targets: Sequence[Sequence[int]]
    ) -> list[float]:
        """Log-probabilities (nats) of targets as answers to one request, read once."""
        read, mask = encode_sources(self.model, [request])
        found: list[float] = []
        for begin in range(0, len(targets), _BATCH_SIZE):
            some = targets[begin : begin + _BATCH_SIZE]
            batch = pad_batch(some, self.tokenizer)
            ids, real = (batch[n].to(mask.device) for n in ("input_ids", "attention_mask"))
            logits = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=read.expand(len(some), -1, -1)),
                attention_mask=mask.expand(len(some), -1),
                decoder_input_ids=shift_right(self.model, ids),
                use_cache=False,
            ).logits
            logs = logits.float().log_softmax(-1).gather(-1, ids[..., None])[..., 0]
            found += (logs * real).sum(1).tolist()
        return found


def open_trained_seq2seq(artifact: Artifact, dtype: torch.dtype) -> Seq2SeqEngine:
    """A trained encoder-decoder ready to answer. Raises NotFound or BadData without the base of an
    adapter."""
    model, tokenizer = load_trained_seq2seq(artifact, dtype)
    name = str(artifact.lineage.get("run", artifact.path.name))
    return Seq2SeqEngine(model, tokenizer, name, artifact.system)


def open_base_seq2seq(local: LocalModel, dtype: torch.dtype) -> Seq2SeqEngine:
    """A pulled encoder-decoder ready to answer. Raises BadRecipe."""
    return Seq2SeqEngine(load_seq2seq(local, dtype), load_tokenizer(local), local.name)
