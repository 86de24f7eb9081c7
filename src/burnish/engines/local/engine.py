"""Models in this process: `transformers` weights, our own batched decoding.

On CPU answers are computed in float32: a bfloat16 product rounds differently for other batch
shapes, so that an answer would depend on who else is asking (docs/decisions/0002).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import PromptTooLong
from burnish.core.records import Answer, Message, Prompt, Row
from burnish.engines.local.choices import best_choices, build_choice_tree, encode_choices
from burnish.engines.local.decoding import (
    Batch,
    GenerationRequest,
    Prefix,
    common_prefix,
    prefill,
    read_prefix,
)
from burnish.engines.local.multi_lora import MultiLoraModel
from burnish.engines.local.path import DecodingPath, choose_decoding_path
from burnish.engines.local.single import best_choice
from burnish.models.adapters.soft_prompts import required_virtual_ids
from burnish.models.chat_template import encode_prompt, encode_row, end_of_turn
from burnish.models.load import context_length, default_device

#: A shared prefix that saves fewer tokens than this isn't worth a pass of its own.
_MIN_SHARED_TOKENS = 64


class LocalEngine:
    """Answers with one model: a base, a base with one of its adapters, or full weights.

    Several engines may share one base in memory: each names its adapter, and says around every pass
    whose rows see it, so that no request sees another one's adapter.
    """

    def __init__(
        self,
        weights: MultiLoraModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        adapter: str | None = None,
        system: str | None = None,
    ) -> None:
        self.weights, self.tokenizer, self.name = weights, tokenizer, name
        self.adapter, self.system = adapter, system
        self.ends = end_of_turn(tokenizer)
        config = self.model.config
        if config.get_text_config() is config and not config.is_encoder_decoder:
            weights.path = weights.path or choose_decoding_path(self.model, name)
        self.path = weights.path or DecodingPath()

    @property
    def model(self) -> Any:
        """The model as `transformers` or PEFT have it."""
        return self.weights.model

    @property
    def vocabulary(self) -> int:
        """How many tokens the model knows."""
        return int(self.model.config.get_text_config().vocab_size)

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return context_length(self.model.config)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the weights, its own adapter among them."""
        return self.weights.bytes_of(self.adapter)

    def active(self) -> AbstractContextManager[None]:
        """The weights of this engine, and nothing of another adapter's."""
        return self.weights.only_adapter(self.adapter)

    @property
    def batch_key(self) -> int:
        """Engines with the same key may have requests in one batch."""
        return id(self.weights if self.weights.can_share(self.adapter) else self)

    def new_batch(self) -> Batch:
        """An empty batch for the requests of this engine, and of those with the same key."""
        if self.weights.can_share(self.adapter):
            return self.path.new_batch(self.model, self.weights.rows_with_adapters)
        return self.path.new_batch(self.model, lambda _: self.active())

    def build_request(self, prompt: Prompt) -> GenerationRequest:
        """A prompt as tokens. Raises PromptTooLong if it and its answer don't fit the context."""
        ids = encode_prompt(self.tokenizer, prompt.messages, prompt.tools)
        return self.build_request_from_ids(prompt, ids)

    def build_request_from_ids(self, prompt: Prompt, ids: Sequence[int]) -> GenerationRequest:
        """The same for tokens that are there already."""
        ids = (*required_virtual_ids(self.model), *ids)
        if len(ids) + prompt.max_new_tokens > self.context_length:
            raise PromptTooLong(
                f"The prompt has {len(ids)} tokens and asks for up to {prompt.max_new_tokens} "
                f"more; the model's context holds {self.context_length}.",
                "Shorten the prompt, or ask for a shorter answer.",
            )
        return GenerationRequest(prompt, ids, self.ends, self.tokenizer, self.adapter)

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        batch_size: int = 16,
        advance: Callable[[int], None] | None = None,
    ) -> list[Answer]:
        """One answer a prompt, in order. Raises PromptTooLong for one that doesn't fit."""
        requests = [self.build_request(prompt) for prompt in prompts]
        answers: dict[int, Answer] = {}
        order = sorted(range(len(requests)), key=lambda place: len(requests[place].ids))
        with self.active():
            prefix = self.shared_prefix(requests)
            for begin in range(0, len(order), batch_size):
                places = order[begin : begin + batch_size]
                begun = time.perf_counter()
                some = [requests[place] for place in places]
                self._answer_batch(some, prefix)
                for place, request in zip(places, some, strict=True):
                    request.seconds = (time.perf_counter() - begun) / len(places)
                    answers[place] = request.answer()
                if advance:
                    advance(len(places))
        return [answers[place] for place in range(len(requests))]

    def stream(self, prompt: Prompt) -> Iterator[str]:
        """The pieces of one answer as they are made."""
        request = self.build_request(prompt)
        running, shown = self.new_batch(), ""
        running.join([request])
        while True:
            ready = request.visible_text()
            if len(ready) > len(shown):
                yield ready[len(shown) :]
                shown = ready
            if request.finish:
                return
            # Whoever reads the pieces may use another adapter of these weights in between: the
            # batch names its own for each pass.
            running.step()

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of a prompt as it would be asked."""
        return len(encode_prompt(self.tokenizer, messages))

    @torch.inference_mode()
    def log_likelihood(self, rows: Sequence[Row]) -> list[tuple[float, int]]:
        """For each row, the log-probability (nats) of its answer, and the answer's tokens."""
        results, before = [], required_virtual_ids(self.model)
        with self.active():
            for row in rows:
                encoded = encode_row(self.tokenizer, row, self.context_length - len(before))
                encoded = encoded.with_prefix(before)
                learnt = [place for place, weight in enumerate(encoded.weights) if weight > 0]
                ids = torch.tensor([encoded.ids], device=self.model.device)
                asked = torch.tensor(learnt, device=self.model.device) - 1
                logits = self.model(input_ids=ids, logits_to_keep=asked).logits[0]
                logs = logits.float().log_softmax(-1)
                chosen = logs.gather(1, ids[0, asked + 1][:, None])
                results.append((float(chosen.sum()), len(learnt)))
        return results

    def shared_prefix(self, requests: Sequence[GenerationRequest]) -> Prefix | None:
        """What all these prompts begin with, read once; None if that saves nothing."""
        if len(requests) < 2:
            return None
        shared = common_prefix([request.ids for request in requests])
        saved = len(shared) * (len(requests) - 1)
        return self.read_prefix(shared) if saved >= _MIN_SHARED_TOKENS else None

    def read_prefix(self, ids: Sequence[int], begin: Prefix | None = None) -> Prefix | None:
        """A beginning of prompts, computed; None for a model whose prompts cannot begin so. Call it
        while `active`."""
        return read_prefix(self.model, ids, begin) if self.path.prefixes else None

    def _answer_batch(self, requests: Sequence[GenerationRequest], prefix: Prefix | None) -> None:
        if bound := [request for request in requests if request.prompt.choices]:
            self.choose(bound, prefix)
        if free := [request for request in requests if not request.prompt.choices]:
            running = self.new_batch()
            running.join(free, prefix)
            while running.requests:
                running.step()

    def choose(self, requests: Sequence[GenerationRequest], prefix: Prefix | None = None) -> None:
        """Answer with exactly one of each request's choices. Call it while `active`."""
        asked = [(request.prompt.choices, request.answer_prefix) for request in requests]
        tokens = {one: encode_choices(self.tokenizer, self.ends, *one) for one in set(asked)}
        trees = {one: build_choice_tree(some) for one, some in tokens.items()}
        own = [trees[one] for one in asked]
        if self.path.trees:
            with torch.inference_mode():
                cache, mask, logits = prefill(self.model, [r.ids for r in requests], prefix)
                numbers = best_choices(self.model, cache, mask, logits, own)
        else:
            both = zip(requests, own, strict=True)
            numbers = [best_choice(self.model, request.ids, tree) for request, tree in both]
        for request, one, number in zip(requests, asked, numbers, strict=True):
            request.text, request.finish = request.prompt.choices[number], "stop"
            request.token_ids = tokens[one][number][:-1]


def inference_dtype() -> torch.dtype:
    """float32 on CPU, where an answer must not depend on its batch; bfloat16 on a GPU."""
    return torch.float32 if default_device().type == "cpu" else torch.bfloat16
