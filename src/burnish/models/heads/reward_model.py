"""A reward model scores a conversation: higher for the better answer.

Its artifact has kind `reward` and the files of a classifier with one output
(models.heads.classifier).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import BadRecipe
from burnish.core.records import Message
from burnish.models.artifact import Artifact
from burnish.models.chat_template import encode_rendered, render_conversation
from burnish.models.heads.classifier import build_head_model, load_head_model, save_head_model
from burnish.models.local_models import LocalModel
from burnish.models.padding import pad_batch

_HEAD = ("worth",)
_CARD = """# A reward model, trained on {base}

It says which of two answers is better. `burnish evaluate --source {run}` measures it on pairs, and
`train.objective: {{kind: grpo, reward: {{kind: model, run: {run}}}}}` learns from it. It reads the
last {most_tokens} tokens of a conversation.
"""


class RewardScorer:
    """Scores conversations; only differences between scores are meaningful."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        self.model, self.tokenizer, self.max_tokens = model.eval(), tokenizer, max_tokens

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the tokens that the chat template gives; the end of a long conversation, with the
        answer."""
        text = render_conversation(self.tokenizer, messages)
        return tuple(encode_rendered(self.tokenizer, text)[-self.max_tokens :])

    @torch.inference_mode()
    def score(
        self, conversations: Sequence[Sequence[Message]], batch_size: int = 16
    ) -> list[float]:
        """Return one number per conversation, in order."""
        ids = [self.encode(messages) for messages in conversations]
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        scores = [0.0] * len(ids)
        for begin in range(0, len(order), batch_size):
            indices = order[begin : begin + batch_size]
            batch = pad_batch([ids[index] for index in indices], self.tokenizer)
            inputs = {name: part.to(self.model.device) for name, part in batch.items()}
            for index, value in zip(indices, self.model(**inputs).logits.float(), strict=True):
                scores[index] = float(value[0])
        return scores


def new_reward_model(
    base: LocalModel, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype
) -> Any:
    """Return the base with a one-output head on its last token. Raises BadRecipe if there is
    none."""
    return build_head_model(base, _HEAD, tokenizer, dtype)


def save_reward_model(
    folder: Path, reward: RewardScorer, base: LocalModel, lineage: Mapping[str, Any]
) -> Artifact:
    """Write a reward model atomically."""
    run = lineage.get("run", folder.name)
    card = _CARD.format(base=base.name, run=run, most_tokens=reward.max_tokens)
    facts = {
        "kind": "reward", "base": base.identity, "max_tokens": reward.max_tokens, **lineage,
    }  # fmt: skip
    return save_head_model(folder, reward.model, reward.tokenizer, facts, card)


def load_reward_model(artifact: Artifact) -> RewardScorer:
    """Load what `save_reward_model` wrote. Raises BadRecipe for another kind of artifact."""
    if artifact.kind != "reward":
        raise BadRecipe(
            f"{artifact.path.parent.name} is not a reward model.",
            "Name a run of train.objective=reward.",
        )
    model, tokenizer = load_head_model(artifact, _HEAD)
    return RewardScorer(model, tokenizer, int(artifact.lineage["max_tokens"]))
