"""Exactly one of several texts: the likeliest whole text, found without scoring all of them.

The texts form a tree of tokens, each ending with the token that ends the turn, so that a text which
begins another one is decided right. A node's log-probability can only fall further down, so the
first complete text that a best-first search reaches is the likeliest one (uniform-cost search). A
model that is sure of its answer reads the tokens of one text, and one that isn't leaves a text as
soon as it is less likely than another whole one.
"""

import heapq
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

from burnish.engines.local.kv_cache import GrowingCache, make_tree_masks
from burnish.models.chat_template import encode_text


@dataclass(eq=False, slots=True)
class ChoiceNode:
    """A place in the tree, behind `token`; `choice` is the text that ends here, if one does."""

    token: int = -1
    children: dict[int, "ChoiceNode"] = field(default_factory=dict)
    choice: int | None = None


def build_choice_tree(choices: Sequence[Sequence[int]]) -> ChoiceNode:
    """The tree of several token sequences, none of which is the beginning of another one."""
    root = ChoiceNode()
    for number, tokens in enumerate(choices):
        node = root
        for token in tokens:
            node = node.children.setdefault(token, ChoiceNode(token))
        node.choice = number
    return root


def encode_choices(
    tokenizer: PreTrainedTokenizerBase, ends: Collection[int], choices: Sequence[str], lead: str
) -> list[list[int]]:
    """Each choice as it would be answered: the tokens of the template's `lead` (see chat.lead_in)
    and its own, and the one that ends the turn."""
    end = min(ends, key=lambda token: token == tokenizer.eos_token_id)
    return [[*encode_text(tokenizer, lead + choice), end] for choice in choices]


#: Tokens that a pass has room for, of all prompts together, and of each prompt one at least. A pass
#: of fewer is hardly shorter, and one of more takes longer for tokens that may not be needed.
TOKENS_PER_PASS = 16
#: Nats: a place this much less likely than the one due isn't worth an early look.
LOOKAHEAD_MARGIN = 3.0


@torch.inference_mode()
def best_choices(
    model: Any,
    cache: GrowingCache,
    mask: torch.Tensor,
    logits: torch.Tensor,
    trees: Sequence[ChoiceNode],
) -> list[int]:
    """For each prompt that has been read, the number of its likeliest choice in its tree.

    `cache`, `mask` and `logits` are what `decode.prefill` gave; the cache is used up.
    """
    begun = _child_logprobs(logits[:, None], [[tree] for tree in trees])
    searches = [_Search(tree, next(logs)) for tree, logs in zip(trees, begun, strict=True)]
    reader, live = TreeReader(model, cache, mask), searches
    while left := [search for search in live if not search.done]:
        # Rows of the cache are left out when that is worth the copying of the others.
        if 4 * len(left) <= 3 * len(live):
            reader.keep([row for row, search in enumerate(live) if not search.done])
            live = left
        due = [search.pop_candidates(max(1, TOKENS_PER_PASS // len(left))) for search in live]
        for search, places, logs in zip(live, due, reader.read(due), strict=True):
            for place in places:
                search.expand(place, [next(logs) for _ in place.path])
    return [search.choice_index for search in searches]


@dataclass(eq=False, slots=True)
class TreeCandidate:
    """A node that a search has reached, at what cost (negative log-probability, nats).

    `way` are the nodes to be read in one pass: this one and, where there is but one way on, those
    behind it. `columns` are the cache's columns of the tokens that have been read on the way.
    """

    node: ChoiceNode
    cost: float
    columns: tuple[int, ...] = ()
    path: tuple[ChoiceNode, ...] = ()

    def look_ahead(self, most: int) -> None:
        """Read at most so many nodes in the next pass."""
        way = [self.node]
        while len(way) < most and len(way[-1].children) == 1:
            (child,) = way[-1].children.values()
            if child.choice is not None:
                break
            way.append(child)
        self.path = tuple(way)


class _Search:
    """The search of one prompt: a heap of places in the tree, the likeliest first."""

    def __init__(self, tree: ChoiceNode, logs: Sequence[float]) -> None:
        self.heap: list[tuple[float, int, TreeCandidate]] = []
        self.ties = count()
        self.expand(TreeCandidate(tree, 0.0, path=(tree,)), [logs])

    @property
    def done(self) -> bool:
        """Whether the likeliest place of all is the end of a text."""
        return self.heap[0][2].node.choice is not None

    @property
    def choice_index(self) -> int:
        """The number of the text that the search ended with."""
        choice = self.heap[0][2].node.choice
        assert choice is not None
        return choice

    def pop_candidates(self, most: int) -> list[TreeCandidate]:
        """The places to look at in the next pass, of at most so many tokens; none when done."""
        taken: list[TreeCandidate] = []
        limit = self.heap[0][0] + LOOKAHEAD_MARGIN
        while self.heap and most:
            cost, _, place = self.heap[0]
            if place.node.choice is not None or cost > limit:
                break
            taken.append(heapq.heappop(self.heap)[2])
            place.look_ahead(most)
            most -= len(place.path)
        return taken

    def expand(self, place: TreeCandidate, logs: Sequence[Sequence[float]]) -> None:
        """Go on from a place: the log-probabilities of the children of each node of its way."""
        cost = place.cost - sum(only for (only,) in logs[:-1])
        for child, log in zip(place.path[-1].children.values(), logs[-1], strict=True):
            after = TreeCandidate(child, cost - log, place.columns)
            heapq.heappush(self.heap, (after.cost, next(self.ties), after))


class TreeReader:
    """Reads tokens of many branches behind each prompt, each once, in columns of the cache.

    A token sees its prompt and the tokens on its own way through the tree, nothing else.
    """

    def __init__(self, model: Any, cache: GrowingCache, mask: torch.Tensor) -> None:
        self.model, self.cache = model, cache
        self.prompt = mask.bool().cpu()
        self.length = mask.sum(1).cpu()
        self.positions = (mask.cumsum(1) - 1).cpu()

    def keep(self, rows: Sequence[int]) -> None:
        """Only these prompts."""
        kept = torch.tensor(rows)
        self.cache.keep_rows(kept.to(self.model.device), 0)
        self.prompt, self.length = self.prompt[kept], self.length[kept]
        self.positions = self.positions[kept]

    def read(self, due: Sequence[Sequence[TreeCandidate]]) -> list[Iterator[list[float]]]:
        """For each prompt, node by node of its places' ways, the children's log-probabilities."""
        nodes = [[node for place in places for node in place.path] for places in due]
        rows, longest, begin = len(due), max(map(len, nodes)), self.cache.width
        tokens = torch.zeros(rows, longest, dtype=torch.long)
        depths = torch.zeros(rows, longest, dtype=torch.long)
        sees = torch.zeros(rows, longest, begin + longest, dtype=torch.bool)
        sees[:, :, : self.prompt.shape[1]] = self.prompt[:, None]
        for row, places in enumerate(due):
            steps = [(place, node) for place in places for node in place.path]
            for column, (place, node) in enumerate(steps):
                place.columns = (*place.columns, begin + column)
                tokens[row, column] = node.token
                depths[row, column] = len(place.columns) - 1
                sees[row, column, list(place.columns)] = True
        asking = self.length[:, None] + depths
        self.positions = torch.cat([self.positions, asking], dim=1)
        distance = asking[:, :, None] - self.positions[:, None, :]
        device = self.model.device
        logits = self.model(
            input_ids=tokens.to(device),
            attention_mask=make_tree_masks(self.model.config, sees.to(device), distance.to(device)),
            position_ids=asking.to(device),
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        return _child_logprobs(logits, nodes)


def _child_logprobs(
    logits: torch.Tensor, nodes: Sequence[Sequence[ChoiceNode]]
) -> list[Iterator[list[float]]]:
    """Log-probabilities of the children of each row's nodes, from the logits (rows, places,
    vocabulary) behind them; a row may have more places than nodes."""
    where = [
        (row, place, token)
        for row, some in enumerate(nodes)
        for place, node in enumerate(some)
        for token in node.children
    ]
    row, place, token = torch.tensor(where, device=logits.device).unbind(1)
    sums = logits.float().logsumexp(-1)
    logs = iter((logits[row, place, token].float() - sums[row, place]).tolist())
    return [iter([[next(logs) for _ in node.children] for node in some]) for some in nodes]


class LogprobTable(Protocol):
    """Log-probabilities of the next token behind a prompt and some tokens more."""

    def top_logprobs(self, behind: tuple[int, ...]) -> tuple[Mapping[int, float], float]:
        """The likeliest tokens, and what no other token exceeds."""

    def all_logprobs(self, behind: tuple[int, ...]) -> Mapping[int, float]:
        """All tokens."""


def find_likeliest(tree: ChoiceNode, table: LogprobTable) -> int:
    """The number of the likeliest text of a tree: uniform-cost search.

    A token that isn't among those shown costs at least as much as the last one that is; its true
    cost is asked for only when such a place comes first. `before` is the cost on the way there.
    """
    ties = count()
    heap: list[tuple[float, int, ChoiceNode, tuple[int, ...], float | None]] = []

    def push(cost: float, node: ChoiceNode, behind: tuple[int, ...], before: float | None) -> None:
        heapq.heappush(heap, (cost, next(ties), node, behind, before))

    push(0.0, tree, (), None)
    while True:
        cost, _, node, behind, before = heapq.heappop(heap)
        if before is not None:
            *parent, token = behind
            push(before - table.all_logprobs(tuple(parent))[token], node, behind, None)
        elif node.choice is not None:
            return node.choice
        else:
            logs, least = table.top_logprobs(behind)
            for token, child in node.children.items():
                sure = token in logs
                push(cost - logs.get(token, least), child, (*behind, token), None if sure else cost)
