"""Cache of prompt prefixes, such as system prompts, across requests.

The prefix that a prompt shares with an earlier one is computed by itself, and kept; the next prompt
starts behind it. An entry belongs to one engine (one adapter on one set of weights) and to one
owner: faster answers or a count of cached tokens would reveal that somebody else has sent the same
prompt. SGLang keeps every prompt in a radix tree (Zheng et al. 2023, arXiv:2312.07104); here a
prefix is kept once two prompts have had it, and memory is bounded.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence

from burnish.core.prefix import common_prefix_length, shared_prefix_length
from burnish.engines.local.decoding import GenerationRequest, Prefix
from burnish.engines.protocol import BatchedEngine

#: An engine and the owner of its requests.
_CacheOwner = tuple[BatchedEngine, str]
#: A shorter prefix isn't worth a pass of its own.
_MIN_TOKENS = 64
#: Number of an engine's latest prompts that a new one is compared with.
_RECENT_PROMPTS = 8


class PrefixCache:
    """An LRU cache of prefixes, of at most `most_bytes`."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._kept: OrderedDict[tuple[_CacheOwner, tuple[int, ...]], Prefix] = OrderedDict()
        self._recent: dict[_CacheOwner, deque[Sequence[int]]] = {}
        self._bytes_per_token: dict[BatchedEngine, float] = {}

    @property
    def bytes(self) -> int:
        """The memory of the cached prefixes."""
        return sum(prefix.bytes for prefix in self._kept.values())

    def remember(self, engine: BatchedEngine, requests: Sequence[GenerationRequest]) -> None:
        """Remember the tokens of prompts, for later ones to share a prefix with."""
        for request in requests:
            recent = self._recent.setdefault((engine, request.owner), deque(maxlen=_RECENT_PROMPTS))
            recent.append(request.ids)

    def find(self, engine: BatchedEngine, request: GenerationRequest) -> tuple[Prefix | None, int]:
        """Return a prefix of the request's prompt, if one is cached or worth computing, and how
        many of its tokens were cached. Call it while the engine is `active`."""
        owner, ids = (engine, request.owner), request.ids
        cached = self._find_longest(owner, ids)
        cached_tokens = len(cached.ids) if cached else 0
        others = [recent for recent in self._recent.get(owner, ()) if recent is not ids]
        length = max((shared_prefix_length([ids, recent]) for recent in others), default=0)
        shared = list(ids[: min(length, self._token_capacity(engine))])
        if len(shared) < cached_tokens + _MIN_TOKENS:
            return cached, cached_tokens
        longer = engine.read_prefix(shared, cached)
        if longer:
            self._store(owner, longer)
        return longer, cached_tokens

    def _find_longest(self, owner: _CacheOwner, ids: Sequence[int]) -> Prefix | None:
        longest: tuple[int, tuple[_CacheOwner, tuple[int, ...]]] | None = None
        for key in self._kept:
            if key[0] == owner:
                length = min(common_prefix_length(key[1], ids), len(ids) - 1)
                if length >= _MIN_TOKENS and (longest is None or length > longest[0]):
                    longest = length, key
        if longest is None:
            return None
        self._kept.move_to_end(longest[1])
        return self._kept[longest[1]].truncate(longest[0])

    def _token_capacity(self, engine: BatchedEngine) -> int:
        """Return the number of tokens that fit into memory; unlimited while their size isn't
        known."""
        bytes_per_token = self._bytes_per_token.get(engine, 1.0)
        return int(self.most_bytes / bytes_per_token)

    def _store(self, owner: _CacheOwner, prefix: Prefix) -> None:
        self._bytes_per_token[owner[0]] = prefix.bytes / len(prefix.ids)
        for key in [key for key in self._kept if key[0] == owner]:
            if key[1] == prefix.ids[: len(key[1])]:
                del self._kept[key]  # the longer one contains it
        self._kept[owner, prefix.ids] = prefix
        while self._kept and self.bytes > self.most_bytes:
            self._kept.popitem(last=False)
