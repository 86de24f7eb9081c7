"""Exactly one of several texts: the likeliest whole text, found without scoring all of them.

The texts form a tree of tokens, each ending with the token that ends the turn, so that a text which
begins another one is decided right. A node's log-probability can only fall further down, so the
first complete text that a best-first search reaches is the likeliest one (uniform-cost search). A
model that is sure of its answer needs a few forward passes instead of one for every text.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from transformers import DynamicCache


@dataclass(eq=False, slots=True)
class Node:
    """A place in the tree; `choice` is the text that ends here, if one does."""

    path: tuple[int, ...] = ()
    children: dict[int, "Node"] = field(default_factory=dict)
    choice: int | None = None

    def stretch(self) -> tuple[int, ...]:
        """The path to here and on, as long as there is only one way to go."""
        node = self
        while len(node.children) == 1:
            (node,) = node.children.values()
        return node.path


def choice_tree(choices: Sequence[Sequence[int]]) -> Node:
    """The tree of several token sequences, none of which is the beginning of another one."""
    root = Node()
    for number, tokens in enumerate(choices):
        node = root
        for token in tokens:
            node = node.children.setdefault(token, Node((*node.path, token)))
        node.choice = number
    return root


@torch.inference_mode()
def best_choices(
    model: Any,
    cache: DynamicCache,
    mask: torch.Tensor,
    logits: torch.Tensor,
    trees: Sequence[Node],
) -> list[int]:
    """For each prompt that has been read, the number of its likeliest choice in its tree.

    `cache`, `mask` and `logits` are what `decode.prefill` gave; the cache is left as it was.
    """
    logs = logits.float().log_softmax(-1)
    searches = [_Search(tree, row) for tree, row in zip(trees, logs, strict=True)]
    while open_searches := [place for place, search in enumerate(searches) if not search.done]:
        due = [(place, *entry) for place in open_searches for entry in searches[place].next()]
        read = _read_on(model, cache, mask, [(place, node.stretch()) for place, _, node in due])
        for (place, cost, node), rows in zip(due, read, strict=True):
            searches[place].visit(node, cost, rows)
    return [search.found for search in searches]


class _Search:
    """The search of one prompt: a heap of places in the tree, the likeliest first."""

    #: Places looked at in one pass. More than the one due costs little, since small passes wait for
    #: the weights and not for the arithmetic, and saves later passes.
    WIDTH = 8
    #: A place this much less likely (in nats) than the one due isn't worth an early look.
    MARGIN = 3.0

    def __init__(self, tree: Node, logs: torch.Tensor) -> None:
        self.heap: list[tuple[float, int, Node]] = []
        self.ties = count()
        self._push_children(tree, 0.0, logs)

    @property
    def done(self) -> bool:
        """Whether the likeliest place of all is the end of a text."""
        return self.heap[0][2].choice is not None

    @property
    def found(self) -> int:
        """The number of the text that the search ended with."""
        choice = self.heap[0][2].choice
        assert choice is not None
        return choice

    def next(self) -> list[tuple[float, Node]]:
        """The next places to look at, with the cost so far (negative log-probability)."""
        taken: list[tuple[float, Node]] = []
        limit = self.heap[0][0] + self.MARGIN
        while self.heap and len(taken) < self.WIDTH:
            cost, _, node = self.heap[0]
            if node.choice is not None or cost > limit:
                break
            heapq.heappop(self.heap)
            taken.append((cost, node))
        return taken

    def visit(self, node: Node, cost: float, rows: torch.Tensor) -> None:
        """Go on from `node`. `rows` are the log-probabilities behind each token of its stretch."""
        place = len(node.path) - 1
        while len(node.children) == 1:
            ((token, child),) = node.children.items()
            cost -= float(rows[place, token])
            node, place = child, place + 1
        if node.choice is not None:
            heapq.heappush(self.heap, (cost, next(self.ties), node))
        else:
            self._push_children(node, cost, rows[place])

    def _push_children(self, node: Node, cost: float, logs: torch.Tensor) -> None:
        tokens = list(node.children)
        for token, log in zip(tokens, logs[tokens].tolist(), strict=True):
            heapq.heappush(self.heap, (cost - log, next(self.ties), node.children[token]))


def _read_on(
    model: Any,
    cache: DynamicCache,
    mask: torch.Tensor,
    due: Sequence[tuple[int, tuple[int, ...]]],
) -> list[torch.Tensor]:
    """For each (prompt, path), log-probabilities (path, vocabulary) behind each of its tokens.

    All paths of a prompt stand behind it in one row, and the mask lets each see the prompt and
    itself only: the prompt's keys and values are shared, not copied for each path.
    """
    ids: list[list[int]] = [[] for _ in range(mask.shape[0])]
    begins = []
    for place, path in due:
        begins.append(len(ids[place]))
        ids[place] += path
    longest = max(len(row) for row in ids)
    before = mask.sum(1)
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    offsets = torch.zeros(len(ids), longest, dtype=torch.long)
    own = torch.eye(longest, dtype=torch.bool).repeat(len(ids), 1, 1)
    for (place, path), begin in zip(due, begins, strict=True):
        span = slice(begin, begin + len(path))
        offsets[place, span] = torch.arange(len(path))
        own[place, span, span] = torch.ones(len(path), len(path), dtype=torch.bool).tril()
    prompt = mask.bool()[:, None, :].expand(-1, longest, -1)
    read: list[Any] = cache.layers
    kept = [(layer.keys, layer.values) for layer in read]
    logits = model(
        input_ids=tokens.to(mask.device),
        attention_mask=torch.cat([prompt, own.to(mask.device)], dim=2)[:, None],
        position_ids=before[:, None] + offsets.to(mask.device),
        past_key_values=cache,
        use_cache=True,
    ).logits.float()
    for layer, (keys, values) in zip(read, kept, strict=True):
        layer.keys, layer.values = keys, values
    return [
        logits[place, begin : begin + len(path)].log_softmax(-1)
        for (place, path), begin in zip(due, begins, strict=True)
    ]
