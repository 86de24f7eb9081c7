"""Answers that follow a JSON Schema: at every token, only what can still become a valid text.

The automaton is llguidance's (https://github.com/guidance-ai/llguidance). It works on the tokens of
one model, which are read once and kept.
"""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import BadData, Unavailable
from burnish.engines.local.grammar_process import COMPILERS, SchemaTooHard

#: Limits of a schema: characters of its JSON, levels of nesting, and regular expressions, whose
#: intersection takes exponential time.
MAX_SCHEMA_LENGTH = 256 * 1024
MAX_SCHEMA_DEPTH = 64
MAX_SCHEMA_PATTERNS = 100
#: States of an answer's automaton, of 1 to 2 kB each; an answer that needs more is cut.
_MAX_LEXER_STATES = 50_000
_PATTERN_KEYWORDS = ("pattern", "patternProperties", "format")


class BadSchema(BadData):
    """A JSON Schema that no answer can be bound to."""


def grammar_from_schema(schema: Mapping[str, Any], compact: bool = False) -> str:
    """Return the grammar of texts that are valid against `schema`; if `compact`, on one line.

    The schema is compiled in a child process, within its limits of time and memory. Raises
    BadSchema, Unavailable.
    """
    _import_llguidance()
    try:
        text = json.dumps(schema, ensure_ascii=False)
        text.encode()
    except (RecursionError, UnicodeEncodeError, ValueError) as error:
        raise BadSchema(f"The schema cannot be read: {type(error).__name__}.") from error
    _check_size(schema, text)
    try:
        reply = COMPILERS.compile(text, compact)
    except SchemaTooHard as limit:
        raise BadSchema(
            f"The schema cannot be compiled: {limit}.",
            "Simplify it; regular expressions (`pattern`) in one `allOf` are the hardest.",
        ) from limit
    if wrong := reply.get("error"):
        raise BadSchema(f"The schema cannot be followed: {wrong}", "Leave that part out.")
    return reply["grammar"]


def _check_size(schema: Mapping[str, Any], text: str) -> None:
    """Raises BadSchema for a schema beyond one of the limits."""
    if len(text) > MAX_SCHEMA_LENGTH:
        raise BadSchema(
            f"The schema has {len(text)} characters; at most {MAX_SCHEMA_LENGTH} are allowed."
        )
    patterns = sum(text.count(f'"{keyword}"') for keyword in _PATTERN_KEYWORDS)
    if patterns > MAX_SCHEMA_PATTERNS:
        raise BadSchema(
            f"The schema has {patterns} regular expressions and formats; at most "
            f"{MAX_SCHEMA_PATTERNS} are allowed."
        )
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        level = [part for value in level for part in _parts(value)]
        if not level:
            return
    raise BadSchema(f"The schema is nested more than {MAX_SCHEMA_DEPTH} levels deep.")


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


class GrammarMatcher:
    """Where one answer stands in its grammar."""

    def __init__(
        self, grammar: str, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]
    ) -> None:
        self._state: Any = compile_grammar(grammar, tokenizer, ends).deep_copy()

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


@lru_cache(maxsize=4)
def compile_grammar(grammar: str, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]) -> Any:
    """Return the automaton of a grammar for a model's tokens, at its beginning.

    This takes as long as the schema took in the child. Call it before a lock is taken: whatever
    needs the same automaton then finds it here.
    """
    guidance = _import_llguidance()
    limits = guidance.LLParserLimits(max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False)
    return guidance.LLMatcher(tokenizer_vocabulary(tokenizer, ends), grammar, limits=limits)


@lru_cache(maxsize=8)
def tokenizer_vocabulary(tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]) -> Any:
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
