"""Requests to an encoder-decoder, answered together.

Requests that join at the same time are a cohort: their sources are read in one pass, and each step
makes one token for each of them. Later ones are a cohort of their own, so that all rows of a pass
stand at the same position, which some decoders count by columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from burnish.engines.local.decoding import Batch, GenerationRequest, Prefix
from burnish.models.chat_template import target_prefix
from burnish.models.padding import pad_batch
from burnish.models.seq2seq import decoder_start


@dataclass(eq=False, slots=True)
class _Cohort:
    """Requests whose answers have the same length by now; `read` is what the encoder gave (rows,
    tokens, width), with its mask."""

    requests: list[GenerationRequest]
    encoded: torch.Tensor
    mask: torch.Tensor
    cache: Any
    last: list[int]


class Seq2SeqBatch(Batch):
    """A batch in flight on an encoder-decoder."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.cohorts: list[_Cohort] = []

    @property
    def requests(self) -> list[GenerationRequest]:  # type: ignore[override]  # those of all cohorts
        """Those that aren't finished."""
        return [request for cohort in self.cohorts for request in cohort.requests]

    @torch.inference_mode()
    def join(self, requests: Sequence[GenerationRequest], prefix: Prefix | None = None) -> None:
        """Read new requests and take their first tokens. A prefix isn't shared by encoders."""
        read, mask = encode_sources(self.model, requests)
        begin = decoder_prefix(self.model, requests[0].tokenizer)
        given = torch.tensor([begin] * len(requests), device=self.model.device)
        logits, cache = _decode(self.model, (read, mask), given, None)
        tokens = [r.sample_token(row) for r, row in zip(requests, logits, strict=True)]
        self.cohorts.append(_Cohort(list(requests), read, mask, cache, tokens))
        self._remove_finished()

    @torch.inference_mode()
    def step(self) -> None:
        """One more token for every request: a pass for each cohort."""
        for one in self.cohorts:
            last = torch.tensor(one.last, device=one.mask.device)[:, None]
            logits, one.cache = _decode(self.model, (one.encoded, one.mask), last, one.cache)
            one.last = [r.sample_token(row) for r, row in zip(one.requests, logits, strict=True)]
        self._remove_finished()

    def _remove_finished(self) -> None:
        """Finished requests leave, and their rows with them."""
        for one in self.cohorts:
            stay = [place for place, request in enumerate(one.requests) if not request.finish]
            if not stay or len(stay) == len(one.requests):
                one.requests = [one.requests[place] for place in stay]
                continue
            kept = torch.tensor(stay, device=one.mask.device)
            one.requests = [one.requests[place] for place in stay]
            one.last = [one.last[place] for place in stay]
            one.encoded, one.mask = one.encoded[kept], one.mask[kept]
            one.cache.reorder_cache(kept)
        self.cohorts = [one for one in self.cohorts if one.requests]


def encode_sources(
    model: Any, requests: Sequence[GenerationRequest]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the encoder makes of the requests' tokens (requests, tokens, width), and their mask."""
    batch = pad_batch([request.ids for request in requests], requests[0].tokenizer)
    ids, mask = batch["input_ids"].to(model.device), batch["attention_mask"].to(model.device)
    return model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state, mask


def decoder_prefix(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that stand before an answer's own."""
    return [int(decoder_start(model) or 0), *target_prefix(tokenizer)]


def _decode(
    model: Any, source: tuple[torch.Tensor, torch.Tensor], tokens: torch.Tensor, cache: Any
) -> tuple[torch.Tensor, Any]:
    """Logits (rows, vocabulary) behind the tokens (rows, new), and the cache that has them."""
    done = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=source[0]),
        attention_mask=source[1],
        decoder_input_ids=tokens,
        past_key_values=cache,
        use_cache=True,
    )
    return done.logits[:, -1], done.past_key_values
