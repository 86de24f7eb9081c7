"""Requests answered together, one token a step; they may join and leave between steps.

All rows of a batch share one KV cache, padded on the left: row i has `mask[i]` over its columns.
A request that joins is read (prefilled) by itself and its cache is padded to the others' width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from burnish.core.prefix import shared_prefix_length
from burnish.core.records import Answer, Prompt, TokenLogprob
from burnish.engines.local.grammar import GrammarMatcher
from burnish.engines.local.kv_cache import GrowingCache
from burnish.models.chat_template import answer_prefix


@dataclass(eq=False)
class GenerationRequest:
    """One prompt on its way to an answer. `text` grows; `finish` is set when it is done.

    `made` are its tokens without the one that ended the turn, which is `end`.
    """

    prompt: Prompt
    ids: Sequence[int]
    end_ids: frozenset[int]
    tokenizer: PreTrainedTokenizerBase
    #: The adapter that answers; none for the base.
    adapter: str | None = None
    #: Whose it is: a beginning that is kept is known to its owner's requests only.
    owner: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    text: str = ""
    finish: str = ""
    end_id: int | None = None
    seconds: float = 0.0
    #: Tokens of an answer that is heard as text.
    fed: int = 0
    #: Tokens of the prompt that did not have to be read, as others begin alike.
    cached: int = 0

    #: What is heard or decoded, of which `text` is shown.
    decoded: str = ""

    def __post_init__(self) -> None:
        self.sampler = Sampler(self.prompt)
        grammar = self.prompt.grammar
        self.matcher = GrammarMatcher(grammar, self.tokenizer, self.end_ids) if grammar else None

    @cached_property
    def answer_prefix(self) -> str:
        """What the template puts before the answer (see chat.lead_in). A text that is no
        conversation has no template, and every space of it counts."""
        return answer_prefix(self.tokenizer) if self.prompt.messages else ""

    def sample_token(self, logits: torch.Tensor) -> int:
        """Choose the next token from logits (vocabulary,); notice when the answer is complete."""
        token = self.sampler.pick(self.matcher.mask_logits(logits) if self.matcher else logits)
        if token in self.end_ids:
            self.finish, self.end_id = "stop", token
            return token
        if self.matcher and not self.matcher.accept_token(token):
            self.finish = "length"  # the answer is not whole, and this is how one says so
            return token
        if self.prompt.top_logprobs is not None:
            self.logprobs.append(self._logprob(logits, token, self.prompt.top_logprobs))
        self.append_token(token)
        return token

    def append_token(self, token: int) -> None:
        """One more token of the answer, whoever has chosen it."""
        self.token_ids.append(token)
        self._set_text(str(self.tokenizer.decode(self.token_ids, skip_special_tokens=True)))
        if not self.finish and len(self.token_ids) >= self.prompt.max_new_tokens:
            self.finish = "length"

    def feed(self, text: str, tokens: int) -> None:
        """More text of an answer that is made elsewhere; it has `tokens` tokens by now."""
        self.fed = tokens
        self._set_text(self.decoded + text)

    def visible_text(self) -> str:
        """The text that can be shown: without half a character or what may become a stop string."""
        if self.finish:
            return self.text
        held = self.text.rstrip("\ufffd")
        for stop in self.prompt.stop:
            for size in range(min(len(stop) - 1, len(held)), 0, -1):
                if held.endswith(stop[:size]):
                    held = held[:-size]
                    break
        return held

    def answer(self) -> Answer:
        """The finished answer."""
        return Answer(
            text=self.text,
            tokens_in=len(self.ids),
            tokens_out=self.fed or len(self.token_ids),
            seconds=self.seconds,
            finish_reason="length" if self.finish == "length" else "stop",
            logprobs=tuple(self.logprobs),
            tokens_cached=self.cached,
        )

    def _set_text(self, text: str) -> None:
        self.decoded = text
        # The beginning of the lead may become the whole of it.
        held = "" if self.answer_prefix.startswith(text) else text
        self.text = held.removeprefix(self.answer_prefix)
        self._stop_at_strings()

    def _stop_at_strings(self) -> None:
        found = [place for stop in self.prompt.stop if (place := self.text.find(stop)) >= 0]
        if found:
            self.text, self.finish = self.text[: min(found)], "stop"

    def _logprob(self, logits: torch.Tensor, token: int, count: int) -> TokenLogprob:
        logs = logits.float().log_softmax(-1)
        values, tokens = logs.topk(count) if count else (logs[:0], logs[:0].long())
        top = tuple(
            (self._decode_token(int(other)), float(value))
            for value, other in zip(values, tokens, strict=True)
        )
        return TokenLogprob(self._decode_token(token), float(logs[token]), top)

    def _decode_token(self, token: int) -> str:
        return str(self.tokenizer.decode([token]))


class Batch(ABC):
    """Requests in flight, whatever model answers them."""

    #: Those that aren't finished.
    requests: list[GenerationRequest]

    @abstractmethod
    def join(self, requests: Sequence[GenerationRequest], prefix: "Prefix | None" = None) -> None:
        """Read new requests and take their first tokens."""

    @abstractmethod
    def step(self) -> None:
        """One more token for every request."""

    @torch.inference_mode()
    def drop(self, request: GenerationRequest) -> None:
        """Leave out a request that nobody waits for any more."""
        if request in self.requests:
            request.finish = "stop"
            self._remove_finished()

    @abstractmethod
    def _remove_finished(self) -> None:
        """Finished requests leave, and their rows with them."""


#: Within it, row i of a pass sees the adapter of that name, or none.
AdapterScope = Callable[[Sequence[str | None]], AbstractContextManager[None]]


def active_adapter(_: Sequence[str | None]) -> AbstractContextManager[None]:
    """Every row sees the adapter that is active."""
    return nullcontext()


class DecodingBatch(Batch):
    """A batch in flight, of requests that use the same weights.

    `seen` sees to it that each has its own adapter; without it all have what is active.
    """

    def __init__(self, model: Any, seen: AdapterScope = active_adapter) -> None:
        self.model, self.adapter_scope = model, seen
        self.requests: list[GenerationRequest] = []
        self.cache: GrowingCache | None = None
        self.mask = torch.zeros(0, 0, dtype=torch.long)
        self.last: list[int] = []

    @torch.inference_mode()
    def join(self, requests: Sequence[GenerationRequest], prefix: "Prefix | None" = None) -> None:
        """Read the prompts of new requests, equal ones once, and take their first tokens.

        With `prefix`, all must have the adapter that it was read with.
        """
        prompts = [(request.adapter, tuple(request.ids)) for request in requests]
        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        with self.adapter_scope([adapter for adapter, _ in places]):
            cache, mask, logits = prefill(self.model, [ids for _, ids in places], prefix)
        if len(places) < len(requests):
            own = torch.tensor([places[prompt] for prompt in prompts], device=mask.device)
            cache.keep_rows(own, 0)
            mask, logits = mask[own], logits[own]
        tokens = [r.sample_token(row) for r, row in zip(requests, logits, strict=True)]
        if self.cache is None or not self.requests:
            self.cache, self.mask = cache, mask
        else:
            self.cache.append_rows(cache)
            width = self.cache.width
            self.mask = torch.cat([_pad_mask(self.mask, width), _pad_mask(mask, width)])
        self.requests += requests
        self.last += tokens
        self._remove_finished()

    @torch.inference_mode()
    def step(self) -> None:
        """One more token for every request."""
        assert self.cache is not None
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.requests), 1)], dim=1)
        with self.adapter_scope([request.adapter for request in self.requests]):
            logits = self.model(
                input_ids=torch.tensor(self.last, device=self.mask.device)[:, None],
                attention_mask=self.mask,
                position_ids=(self.mask.sum(1) - 1)[:, None],
                past_key_values=self.cache,
                use_cache=True,
            ).logits[:, -1]
        self.last = [r.sample_token(row) for r, row in zip(self.requests, logits, strict=True)]
        self._remove_finished()

    def _remove_finished(self) -> None:
        """Finished requests leave, and their rows of the cache with them."""
        stay = [place for place, request in enumerate(self.requests) if not request.finish]
        if len(stay) == len(self.requests):
            return
        self.requests = [self.requests[place] for place in stay]
        self.last = [self.last[place] for place in stay]
        if not stay or self.cache is None:
            self.cache = None
            return
        kept = torch.tensor(stay, device=self.mask.device)
        self.mask = self.mask[kept]
        # Columns that are padding for everybody who is left cost time and memory.
        first = int(self.mask.any(0).int().argmax())
        self.mask = self.mask[:, first:]
        self.cache.keep_rows(kept, first)


@dataclass(frozen=True, slots=True)
class Prefix:
    """The keys and values of tokens that several prompts begin with, computed once."""

    ids: tuple[int, ...]
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @property
    def bytes(self) -> int:
        """Memory of the keys and values."""
        return sum(part.numel() * part.element_size() for pair in self.layers for part in pair)

    def truncate(self, length: int) -> "Prefix":
        """Its first `length` tokens; nothing is copied."""
        layers = tuple((keys[:, :, :length], values[:, :, :length]) for keys, values in self.layers)
        return Prefix(self.ids[:length], layers)


@torch.inference_mode()
def read_prefix(model: Any, ids: Sequence[int], begin: Prefix | None = None) -> Prefix:
    """Compute a prefix. `ids` are its tokens; `begin` is known of it."""
    cache, _, _ = prefill(model, [ids], begin)
    return Prefix(tuple(ids), tuple((layer.keys, layer.values) for layer in cache.layers))


def prefill(
    model: Any, prompts: Sequence[Sequence[int]], prefix: Prefix | None = None
) -> tuple[GrowingCache, torch.Tensor, torch.Tensor]:
    """Read prompts. Returns the cache, its mask (rows, columns) and the logits (rows, vocabulary).

    With `prefix`, every prompt must begin with its tokens and have at least one more.
    """
    begin = len(prefix.ids) if prefix else 0
    rest = [list(ids[begin:]) for ids in prompts]
    longest = max(len(ids) for ids in rest)
    padded = torch.tensor([[0] * (longest - len(ids)) + ids for ids in rest])
    own = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in rest])
    mask = torch.cat([own.new_ones(len(rest), begin), own], dim=1)
    each = (len(rest), -1, -1, -1)
    shared = prefix.layers if prefix else ()
    cache = GrowingCache((keys.expand(each), values.expand(each)) for keys, values in shared)
    place = model.device
    logits = model(
        input_ids=padded.to(place),
        attention_mask=mask.to(place),
        position_ids=(begin + own.cumsum(1) - 1).clamp(min=0).to(place),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    return cache, mask.to(place), logits


def common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all prompts begin with; at least one token is left to each."""
    return list(prompts[0][: shared_prefix_length(prompts)])


def _pad_mask(mask: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(mask, (width - mask.shape[1], 0))


#: Below this temperature only the likeliest token has a chance, and logits divided by it overflow.
_MIN_TEMPERATURE = 1e-4


class Sampler:
    """Draws the tokens of one answer. Its own generator makes a seed mean the same in any batch."""

    def __init__(self, prompt: Prompt) -> None:
        self.temperature, self.top_p = prompt.temperature, prompt.top_p
        self.generator = torch.Generator()
        if prompt.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(prompt.seed)

    def pick(self, logits: torch.Tensor) -> int:
        """One token of logits (vocabulary,). Nucleus: Holtzman et al. 2020, arXiv:1904.09751."""
        if self.temperature < _MIN_TEMPERATURE:
            return int(logits.argmax())
        chances = (logits.float().cpu() / self.temperature).softmax(-1)
        if self.top_p >= 1:
            return int(torch.multinomial(chances, 1, generator=self.generator))
        ordered, tokens = chances.sort(descending=True)
        kept = int((ordered.cumsum(-1) - ordered < self.top_p).sum())
        ordered, tokens = ordered[: max(kept, 1)], tokens[: max(kept, 1)]
        drawn = torch.multinomial(ordered, 1, generator=self.generator)
        return int(tokens[drawn])
