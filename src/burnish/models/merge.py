"""Merge trained weights into one model without an adapter, in float32.

An update is added in float32 lest it be rounded away: steps between 4-bit or even 16-bit weights
are larger than many of an adapter's changes. PEFT's `merge_and_unload` implements each method
(LoRA, DoRA, rsLoRA, IA3).
"""

from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from burnish.core.errors import BurnishError
from burnish.models.artifact import NON_PEFT_ADAPTERS, Artifact, find_base
from burnish.models.load import load_model
from burnish.models.quantization.q4_0 import round_model_to_q4_0
from burnish.models.seq2seq import load_trained_seq2seq


class CannotMerge(BurnishError):
    """The trained parameters aren't a change of the base's weights."""


#: Kinds of artifacts that output labels, vectors or scores.
NON_GENERATIVE_KINDS = ("classifier", "token_classifier", "embedder", "reward")


def check_mergeable(artifact: Artifact) -> None:
    """Raise CannotMerge if the trained parameters can't be merged, or the model makes no text."""
    if artifact.kind in NON_GENERATIVE_KINDS:
        raise CannotMerge(
            f"A trained {artifact.kind} generates no text; only language models can be exported.",
            f"{artifact.path} is a folder that transformers reads: copy it as it is.",
        )
    if artifact.kind == "vision":
        raise CannotMerge(
            "Only text-only models can be exported; this is a vision-language model.",
            f"{artifact.path} is a folder that transformers reads: `burnish serve` opens it.",
        )
    if artifact.kind in NON_PEFT_ADAPTERS:
        raise CannotMerge(
            f"What train.method={artifact.lineage['recipe']['train']['method']['kind']} learns "
            "stands beside the base's weights and can't be merged into them.",
            "Export it with --to adapter and answer with burnish, or train with train.method=lora.",
        )


def load_merged_model(artifact: Artifact) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load the trained model in float32 on the CPU, merged, and its tokenizer.

    Weights trained with rounding come rounded, after merging. An adapter trained on frozen 4-bit
    weights is added to the base's original 16-bit weights. Raises NotFound or BadData if the base
    isn't here or differs.
    """
    if artifact.kind == "seq2seq":
        return load_trained_seq2seq(artifact, torch.float32)
    if artifact.kind == "full":
        tokenizer: Any = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
        model: Any = AutoModelForCausalLM.from_pretrained(
            artifact.path, dtype=torch.float32, local_files_only=True
        )
    else:
        adapted, tokenizer = load_adapted_model(artifact)
        model = adapted.merge_and_unload()
    if artifact.rounding_format:
        round_model_to_q4_0(model)
    return model.eval(), tokenizer


def load_adapted_model(artifact: Artifact) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load an adapter on its base's original weights, in float32 on the CPU, and its tokenizer.

    Raises NotFound or BadData if the base isn't here or differs, CannotMerge if the adapter isn't a
    change of weights.
    """
    check_mergeable(artifact)
    tokenizer = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
    base = load_model(find_base(artifact), torch.float32)
    adapted = PeftModel.from_pretrained(base, artifact.path, autocast_adapter_dtype=False)
    return adapted.float().cpu().eval(), tokenizer
