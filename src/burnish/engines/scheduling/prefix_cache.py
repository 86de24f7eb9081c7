"""Beginnings that prompts share, such as a system prompt, kept from one request to the next.

A prompt that begins like an earlier one has what they share read by itself, and kept; the next one
starts behind it. What is kept belongs to one engine, that is to one adapter on one set of weights,
and nobody else starts there; and to one owner: whoever is answered sooner, or told of cached
tokens, would learn that somebody else has asked the same. SGLang keeps all of every prompt in a
tree (Zheng et al. 2023, arXiv:2312.07104); here a beginning is kept once two prompts have had it,
and memory is bounded.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence

from burnish.core.prefix import common_prefix_length, shared_prefix_length
from burnish.engines.local.decoding import GenerationRequest, Prefix
from burnish.engines.protocol import BatchedEngine

#: An engine and who asks it.
_CacheOwner = tuple[BatchedEngine, str]
#: A shorter beginning isn't worth a pass of its own.
_MIN_TOKENS = 64
#: Prompts of an engine, the last ones, that a new one is held against.
_RECENT_PROMPTS = 8


class PrefixCache:
    """What is kept, `most_bytes` of it at most; the beginning that was used last goes last."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._kept: OrderedDict[tuple[_CacheOwner, tuple[int, ...]], Prefix] = OrderedDict()
        self._seen: dict[_CacheOwner, deque[Sequence[int]]] = {}
        self._bytes_a_token: dict[BatchedEngine, float] = {}

    @property
    def bytes(self) -> int:
        """Memory of what is kept."""
        return sum(prefix.bytes for prefix in self._kept.values())

    def remember(self, engine: BatchedEngine, requests: Sequence[GenerationRequest]) -> None:
        """Prompts that others may begin like: their tokens only."""
        for request in requests:
            seen = self._seen.setdefault((engine, request.owner), deque(maxlen=_RECENT_PROMPTS))
            seen.append(request.ids)

    def find(self, engine: BatchedEngine, request: GenerationRequest) -> tuple[Prefix | None, int]:
        """A beginning of its prompt, if one is kept or is worth to be read and kept; and how many
        of its tokens were there already. Call it while the engine is `active`."""
        whose, ids = (engine, request.owner), request.ids
        kept = self._find_longest(whose, ids)
        had = len(kept.ids) if kept else 0
        others = [seen for seen in self._seen.get(whose, ()) if seen is not ids]
        length = max((shared_prefix_length([ids, seen]) for seen in others), default=0)
        shared = list(ids[: min(length, self._token_capacity(engine))])
        if len(shared) < had + _MIN_TOKENS:
            return kept, had
        longer = engine.read_prefix(shared, kept)
        if longer:
            self._store(whose, longer)
        return longer, had

    def _find_longest(self, whose: _CacheOwner, ids: Sequence[int]) -> Prefix | None:
        found: tuple[int, tuple[_CacheOwner, tuple[int, ...]]] | None = None
        for key in self._kept:
            if key[0] == whose:
                length = min(common_prefix_length(key[1], ids), len(ids) - 1)
                if length >= _MIN_TOKENS and (found is None or length > found[0]):
                    found = length, key
        if found is None:
            return None
        self._kept.move_to_end(found[1])
        return self._kept[found[1]].truncate(found[0])

    def _token_capacity(self, engine: BatchedEngine) -> int:
        """Tokens that there is memory for; all that one asks for while their size isn't known."""
        each = self._bytes_a_token.get(engine, 1.0)
        return int(self.most_bytes / each)

    def _store(self, whose: _CacheOwner, prefix: Prefix) -> None:
        self._bytes_a_token[whose[0]] = prefix.bytes / len(prefix.ids)
        for key in [key for key in self._kept if key[0] == whose]:
            if key[1] == prefix.ids[: len(key[1])]:
                del self._kept[key]  # the longer one holds it
        self._kept[whose, prefix.ids] = prefix
        while self._kept and self.bytes > self.most_bytes:
            self._kept.popitem(last=False)
