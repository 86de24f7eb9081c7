"""Exactly one of several texts: the likeliest whole text, found without scoring all of them.

The texts form a tree of tokens, each ending with the token that ends the turn, so that a text which
begins another one is decided right. A node's log-probability can only fall further down, so the
first complete text that a best-first search reaches is the likeliest one (uniform-cost search). A
model that is sure of its answer reads the tokens of one text, and one that isn't leaves a text as
soon as it is less likely than another whole one.
"""

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

from burnish.engines.cache import GrowingCache, tree_masks
from burnish.models.chat import encode_text


@dataclass(eq=False, slots=True)
class Node:
    """A place in the tree, behind `token`; `choice` is the text that ends here, if one does."""

    token: int = -1
    children: dict[int, "Node"] = field(default_factory=dict)
    choice: int | None = None


def choice_tree(choices: Sequence[Sequence[int]]) -> Node:
    """The tree of several token sequences, none of which is the beginning of another one."""
    root = Node()
    for number, tokens in enumerate(choices):
        node = root
        for token in tokens:
            node = node.children.setdefault(token, Node(token))
        node.choice = number
    return root


def choice_tokens(
    tokenizer: PreTrainedTokenizerBase, ends: Collection[int], choices: Sequence[str]
) -> list[list[int]]:
    """Each choice as it would be answered: its tokens, and the one that ends the turn."""
    end = min(ends, key=lambda token: token == tokenizer.eos_token_id)
    return [[*encode_text(tokenizer, choice), end] for choice in choices]


@torch.inference_mode()
def best_choices(
    model: Any,
    cache: GrowingCache,
    mask: torch.Tensor,
    logits: torch.Tensor,
    trees: Sequence[Node],
) -> list[int]:
    """For each prompt that has been read, the number of its likeliest choice in its tree.

    `cache`, `mask` and `logits` are what `decode.prefill` gave; the cache is left as it was.
    """
    width = cache.width
    logs = logits.float().log_softmax(-1)
    searches = [_Search(tree, row) for tree, row in zip(trees, logs, strict=True)]
    reader = _Reader(model, cache, mask)
    while not all(search.done for search in searches):
        due = [search.next() for search in searches]
        for search, places, rows in zip(searches, due, reader.read(due), strict=True):
            for place, row in zip(places, rows, strict=True):
                search.visit(place, row)
    cache.cut(width)
    return [search.found for search in searches]


@dataclass(eq=False, slots=True)
class _Place:
    """A node that a search has reached, at what cost (negative log-probability, nats).

    `columns` are the cache's columns of the tokens on the way here, once they have been read.
    """

    node: Node
    cost: float
    columns: tuple[int, ...] = ()


class _Search:
    """The search of one prompt: a heap of places in the tree, the likeliest first."""

    #: Places looked at in one pass, at the most.
    WIDTH = 16
    #: A place this much less likely than the one due isn't worth an early look in the first pass.
    #: The margin grows with each pass: who is still unsure will look at most places anyway, and
    #: prompts that are read together should keep each other company.
    MARGIN = 3.0

    def __init__(self, tree: Node, logs: torch.Tensor) -> None:
        self.heap: list[tuple[float, int, _Place]] = []
        self.ties, self.passes = count(), 0
        self.visit(_Place(tree, 0.0), logs)

    @property
    def done(self) -> bool:
        """Whether the likeliest place of all is the end of a text."""
        return self.heap[0][2].node.choice is not None

    @property
    def found(self) -> int:
        """The number of the text that the search ended with."""
        choice = self.heap[0][2].node.choice
        assert choice is not None
        return choice

    def next(self) -> list[_Place]:
        """The places to look at in the next pass; none when the search is done."""
        taken: list[_Place] = []
        self.passes += 1
        limit = self.heap[0][0] + self.passes * self.MARGIN
        while self.heap and len(taken) < self.WIDTH:
            cost, _, place = self.heap[0]
            if place.node.choice is not None or cost > limit:
                break
            taken.append(heapq.heappop(self.heap)[2])
        return taken

    def visit(self, place: _Place, logs: torch.Tensor) -> None:
        """Go on from a place, whose next token has the log-probabilities `logs` (vocabulary,)."""
        children = place.node.children
        for child, log in zip(children.values(), logs[list(children)].tolist(), strict=True):
            after = _Place(child, place.cost - log, place.columns)
            heapq.heappush(self.heap, (after.cost, next(self.ties), after))


class _Reader:
    """Reads tokens of many branches behind each prompt, each once, in columns of the cache.

    A token sees its prompt and the tokens on its own way through the tree, nothing else.
    """

    def __init__(self, model: Any, cache: GrowingCache, mask: torch.Tensor) -> None:
        self.model, self.cache = model, cache
        self.prompt = mask.bool().cpu()
        self.length = mask.sum(1).cpu()
        self.positions = (mask.cumsum(1) - 1).cpu()

    def read(self, due: Sequence[Sequence[_Place]]) -> list[torch.Tensor]:
        """For each prompt, log-probabilities (places, vocabulary) behind each of its places."""
        rows, longest, begin = len(due), max(map(len, due)), self.cache.width
        tokens = torch.zeros(rows, longest, dtype=torch.long)
        depths = torch.zeros(rows, longest, dtype=torch.long)
        sees = torch.zeros(rows, longest, begin + longest, dtype=torch.bool)
        sees[:, :, : self.prompt.shape[1]] = self.prompt[:, None]
        for row, places in enumerate(due):
            for column, place in enumerate(places):
                place.columns = (*place.columns, begin + column)
                tokens[row, column] = place.node.token
                depths[row, column] = len(place.columns) - 1
                sees[row, column, list(place.columns)] = True
        asking = self.length[:, None] + depths
        self.positions = torch.cat([self.positions, asking], dim=1)
        distance = asking[:, :, None] - self.positions[:, None, :]
        device = self.model.device
        logits = self.model(
            input_ids=tokens.to(device),
            attention_mask=tree_masks(self.model.config, sees.to(device), distance.to(device)),
            position_ids=asking.to(device),
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        return [logits[row, : len(some)].float().log_softmax(-1) for row, some in enumerate(due)]


class Table(Protocol):
    """Log-probabilities of the next token behind a prompt and some tokens more."""

    def shown(self, behind: tuple[int, ...]) -> tuple[Mapping[int, float], float]:
        """The likeliest tokens, and what no other token exceeds."""

    def everything(self, behind: tuple[int, ...]) -> Mapping[int, float]:
        """All tokens."""


def likeliest(tree: Node, table: Table) -> int:
    """The number of the likeliest text of a tree: uniform-cost search.

    A token that isn't among those shown costs at least as much as the last one that is; its true
    cost is asked for only when such a place comes first. `before` is the cost on the way there.
    """
    ties = count()
    heap: list[tuple[float, int, Node, tuple[int, ...], float | None]] = []

    def push(cost: float, node: Node, behind: tuple[int, ...], before: float | None) -> None:
        heapq.heappush(heap, (cost, next(ties), node, behind, before))

    push(0.0, tree, (), None)
    while True:
        cost, _, node, behind, before = heapq.heappop(heap)
        if before is not None:
            *parent, token = behind
            push(before - table.everything(tuple(parent))[token], node, behind, None)
        elif node.choice is not None:
            return node.choice
        else:
            logs, least = table.shown(behind)
            for token, child in node.children.items():
                sure = token in logs
                push(cost - logs.get(token, least), child, (*behind, token), None if sure else cost)
