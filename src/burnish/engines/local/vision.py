"""Models that see, in this process.

Requests are answered in turns, a token each, every one with keys and values of its own: what a
model makes of a prompt with pictures is its own affair (positions in three dimensions, attention
both ways within a picture), so that prompts are read by its own forward pass, one by one.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from burnish.core.records import Row
from burnish.engines.local.choices import encode_choices
from burnish.engines.local.decoding import Batch, GenerationRequest, Prefix
from burnish.engines.local.engine import LocalEngine
from burnish.engines.local.multi_lora import MultiLoraModel
from burnish.models.artifact import Artifact
from burnish.models.chat_template import encode_row, process_prompt
from burnish.models.load import load_tokenizer
from burnish.models.local_models import LocalModel
from burnish.models.vision import load_trained_vision, load_vision


@dataclass(eq=False, slots=True)
class ReadPrompt:
    """What has been read of one conversation: its cache, how far positions are from the count of
    tokens in models that count them otherwise, and the logits (vocabulary,) behind it."""

    cache: Any
    deltas: Any
    logits: torch.Tensor


class VisionEngine(LocalEngine):
    """Answers with one model that sees."""

    def new_batch(self) -> Batch:
        """An empty batch for its requests."""
        return VisionBatch(self)

    def read_prefix(self, ids: Sequence[int], begin: Prefix | None = None) -> Prefix | None:
        """None: tokens don't say which picture they stand for."""
        return None

    def choose(self, requests: Sequence[GenerationRequest], prefix: Prefix | None = None) -> None:
        """Answer with exactly one of each request's choices: the likeliest."""
        for request in requests:
            choices = request.prompt.choices
            tokens = encode_choices(self.tokenizer, self.ends, choices, request.answer_prefix)
            begun = self.read_prompt(request)
            logs = [self._log_prob(begun, some) for some in tokens]
            number = max(range(len(choices)), key=lambda place: logs[place])
            request.text, request.finish = choices[number], "stop"
            request.token_ids = tokens[number][:-1]

    @torch.inference_mode()
    def log_likelihood(self, rows: Sequence[Row]) -> list[tuple[float, int]]:
        """For each row, the log-probability (nats) of its answer, and the answer's tokens."""
        results = []
        for row in rows:
            encoded = encode_row(self.tokenizer, row, self.context_length)
            learnt = [place for place, weight in enumerate(encoded.weights) if weight > 0]
            seen = process_prompt(self.tokenizer, row.prompt, row.tools)
            given = seen.inputs(encoded.ids, self.model)
            asked = torch.tensor(learnt, device=self.model.device)
            logits = self.model(**given, logits_to_keep=asked - 1).logits[0]
            chosen = logits.float().log_softmax(-1).gather(1, given["input_ids"][0, asked][:, None])
            results.append((float(chosen.sum()), len(learnt)))
        return results

    @torch.inference_mode()
    def read_prompt(self, request: GenerationRequest) -> ReadPrompt:
        """The prompt of a request with its pictures."""
        seen = process_prompt(self.tokenizer, request.prompt.messages, request.prompt.tools)
        return self._forward(seen.inputs(request.ids, self.model), None)

    @torch.inference_mode()
    def extend(self, read: ReadPrompt, tokens: Sequence[int]) -> ReadPrompt:
        """What has been read, with tokens behind it; its cache goes along."""
        ids = torch.tensor([list(tokens)], device=self.model.device)
        # Without a mask: one of all tokens would be taken for that of the new ones.
        return self._forward({"input_ids": ids}, read)

    def _forward(self, given: dict[str, torch.Tensor], before: ReadPrompt | None) -> ReadPrompt:
        # Models that count positions otherwise keep the difference in themselves, for one
        # conversation at a time.
        counting = [part for part in self.model.modules() if hasattr(part, "rope_deltas")]
        for part in counting:
            part.rope_deltas = before.deltas if before else None
        done = self.model(
            **given,
            past_key_values=before.cache if before else None,
            use_cache=True,
            logits_to_keep=1,
        )
        deltas = counting[0].rope_deltas if counting else None
        return ReadPrompt(done.past_key_values, deltas, done.logits[0, -1])

    def _log_prob(self, read: ReadPrompt, tokens: Sequence[int]) -> float:
        """The log-probability (nats) of these tokens behind what has been read."""
        total, own = 0.0, ReadPrompt(deepcopy(read.cache), read.deltas, read.logits)
        for place, token in enumerate(tokens):
            total += float(own.logits.float().log_softmax(-1)[token])
            if place + 1 < len(tokens):
                own = self.extend(own, [token])
        return total


class VisionBatch(Batch):
    """Requests in flight on a model that sees, one after the other in each step."""

    def __init__(self, engine: VisionEngine) -> None:
        self.engine = engine
        self.requests: list[GenerationRequest] = []
        self._read: dict[GenerationRequest, ReadPrompt] = {}

    def join(self, requests: Sequence[GenerationRequest], prefix: Prefix | None = None) -> None:
        """Read new requests and take their first tokens."""
        read = {request: self.engine.read_prompt(request) for request in requests}
        for request, one in read.items():
            request.sample_token(one.logits)
        self._read |= read
        self.requests += requests
        self._remove_finished()

    def step(self) -> None:
        """One more token for every request."""
        for request in self.requests:
            read = self.engine.extend(self._read[request], request.token_ids[-1:])
            self._read[request] = read
            request.sample_token(read.logits)
        self._remove_finished()

    def _remove_finished(self) -> None:
        """Finished requests leave, and what was read of them."""
        self.requests = [request for request in self.requests if not request.finish]
        self._read = {request: self._read[request] for request in self.requests}


def open_trained_vision(artifact: Artifact, dtype: torch.dtype) -> VisionEngine:
    """A trained model that sees, ready to answer. Raises NotFound or BadData without the base of an
    adapter."""
    model, tokenizer = load_trained_vision(artifact, dtype)
    name = str(artifact.lineage.get("run", artifact.path.name))
    return VisionEngine(MultiLoraModel(model), tokenizer, name, system=artifact.system)


def open_base_vision(local: LocalModel, dtype: torch.dtype) -> VisionEngine:
    """A pulled model that sees, ready to answer. Raises BadRecipe."""
    model = load_vision(local.path, local.name, dtype)
    return VisionEngine(MultiLoraModel(model), load_tokenizer(local), local.name)
