"""The trained weights as one model without an adapter, merged in float32.

An update is added where it is not rounded away: a 4-bit or even a 16-bit weight has steps that are
larger than many of an adapter's changes. PEFT's own `merge_and_unload` knows what each method means
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
    """What was trained isn't a change of the base's weights."""


#: Kinds of artifacts of an encoder: labels or vectors come out.
NON_GENERATIVE_KINDS = ("classifier", "token_classifier", "embedder", "reward")


def check_mergeable(artifact: Artifact) -> None:
    """Raises CannotMerge if what was trained stands beside the base's weights, or makes no text."""
    if artifact.kind in NON_GENERATIVE_KINDS:
        raise CannotMerge(
            f"A trained {artifact.kind} makes no text, and exports are of language models.",
            f"{artifact.path} is a folder that transformers reads: copy it as it is.",
        )
    if artifact.kind == "vision":
        raise CannotMerge(
            "Exports are of models that read text only, and this one sees.",
            f"{artifact.path} is a folder that transformers reads: `burnish serve` opens it.",
        )
    if artifact.kind in NON_PEFT_ADAPTERS:
        raise CannotMerge(
            f"What train.method={artifact.lineage['recipe']['train']['method']['kind']} learns "
            "stands beside the base's weights and can't be merged into them.",
            "Export it with --to adapter and answer with burnish, or train with train.method=lora.",
        )


def load_merged_model(artifact: Artifact) -> tuple[Any, PreTrainedTokenizerBase]:
    """The trained model in float32 on the CPU, and its tokenizer.

    Weights that were trained rounded come rounded, an adapter merged before. An adapter that was
    trained on frozen weights of 4 bits is added to the base's own weights of 16 bits.
    Raises NotFound or BadData if the base isn't here or is another one.
    """
    if artifact.kind == "seq2seq":
        return load_trained_seq2seq(artifact, torch.float32)
    if artifact.kind == "full":
        own: Any = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
        model: Any = AutoModelForCausalLM.from_pretrained(
            artifact.path, dtype=torch.float32, local_files_only=True
        )
    else:
        adapted, own = load_adapted_model(artifact)
        model = adapted.merge_and_unload()
    if artifact.rounding_format:
        round_model_to_q4_0(model)
    return model.eval(), own


def load_adapted_model(artifact: Artifact) -> tuple[Any, PreTrainedTokenizerBase]:
    """An adapter on its base's own weights, in float32 on the CPU, and its tokenizer.

    Raises NotFound or BadData if the base isn't here or is another one, CannotMerge if what was
    trained is no change of weights.
    """
    check_mergeable(artifact)
    tokenizer = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
    base = load_model(find_base(artifact), torch.float32)
    adapted = PeftModel.from_pretrained(base, artifact.path, autocast_adapter_dtype=False)
    return adapted.float().cpu().eval(), tokenizer
