"""Answers that follow a JSON Schema: at every token, only what can still become a valid text.

The automaton is llguidance's (https://github.com/guidance-ai/llguidance). It works on the tokens of
one model, which are read once and kept.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import BadData, Unavailable

#: White space between two parts of an answer: room for any style, but not for ever; or none of it.
_FLEXIBLE = {"whitespace_flexible": True, "whitespace_pattern": r"[ \n]{0,12}"}
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class BadSchema(BadData):
    """A JSON Schema that no answer can be bound to."""


def grammar_from_schema(schema: Mapping[str, Any], compact: bool = False) -> str:
    """The grammar of texts that are valid against `schema`; if `compact`, on one line.

    Raises BadSchema, Unavailable.
    """
    style = _COMPACT if compact else _FLEXIBLE
    guidance = _import_llguidance()
    try:
        text = json.dumps(schema, ensure_ascii=False)
        text.encode()
        grammar = str(guidance.LLMatcher.grammar_from_json_schema(text, overrides=style))
    except (RecursionError, UnicodeEncodeError, ValueError) as error:
        raise BadSchema(f"The schema cannot be read: {type(error).__name__}.") from error
    if wrong := _grammar_error(guidance, grammar):
        raise BadSchema(f"The schema cannot be followed: {wrong}", "Leave that part out.")
    return grammar


class GrammarMatcher:
    """Where one answer stands in its grammar."""

    def __init__(
        self, grammar: str, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]
    ) -> None:
        self._state: Any = _import_llguidance().LLMatcher(
            _tokenizer_vocabulary(tokenizer, ends), grammar
        )

    def mask_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (vocabulary,) with all tokens at -inf that cannot follow."""
        allowed = torch.frombuffer(bytearray(self._state.compute_logit_bias()), dtype=torch.uint8)
        refused = torch.ones(len(logits), dtype=torch.bool)
        shared = min(len(allowed), len(logits))
        refused[:shared] = allowed[:shared] == 0
        return logits.masked_fill(refused.to(logits.device), float("-inf"))

    def accept_token(self, token: int) -> bool:
        """Go on behind `token`; False if the automaton has outgrown its limits."""
        return bool(self._state.consume_token(token))


def _grammar_error(guidance: Any, grammar: str) -> str:
    """What is wrong with a grammar, if anything is."""
    try:
        return str(guidance.LLMatcher.validate_grammar(grammar))
    except BaseException as panic:
        # A panic of the library's Rust: it cannot quote some texts in its own complaints. PyO3's
        # class cannot be imported, and is no Exception.
        if type(panic).__name__ != "PanicException":
            raise
        return "a part of it is of the wrong type."


@lru_cache(maxsize=8)
def _tokenizer_vocabulary(tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]) -> Any:
    """A tokenizer's tokens as bytes; any of `ends` ends an answer."""
    _import_llguidance()
    from llguidance import hf

    backend: Any = tokenizer
    return hf.from_tokenizer(backend, eos_token=sorted(ends))


def _import_llguidance() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise Unavailable(
            "Answers by a JSON Schema need llguidance.", "pip install 'burnish[serve]'"
        ) from error
    return llguidance
