"""An adapter trained on top of another one: `train.method.stack_on`.

The one below is put into the frozen weights in memory, so that a step costs what it costs without.
What is kept is an adapter of the untouched base: both updates side by side, B1 A1 + B2 A2.
"""

from pathlib import Path
from typing import Any

from peft import PeftModel

from burnish.core.errors import BadRecipe
from burnish.core.runs import find_run
from burnish.models.artifact import find_base, open_artifact

#: PEFT's name of what is trained, and of what lies below it.
_TOP, _BELOW, _BOTH = "default", "below", "both"


def adapter_below(model: Any, name: str) -> Path:
    """The folder of a run's adapter. Raises NotFound; BadRecipe if it is no LoRA on this base."""
    artifact = open_artifact(find_run(name).artifact)
    method = artifact.lineage.get("recipe", {}).get("train", {}).get("method", {})
    is_lora = artifact.kind == "adapter" and method.get("kind") == "lora"
    if not is_lora or find_base(artifact).path != Path(model.name_or_path):
        raise BadRecipe(
            f"{name} holds no LoRA adapter of this base model.",
            "Name a run of train.method=lora on the same model in train.method.stack_on.",
        )
    return artifact.path


def merge_below(model: Any, below: Path) -> Any:
    """The model with an adapter's update in its own weights, rounded to their number format."""
    adapted: Any = PeftModel.from_pretrained(model, str(below), autocast_adapter_dtype=False)
    return adapted.to(model.dtype).merge_and_unload()


def combine_with_base_adapter(model: Any, below: Path) -> None:
    """Turn the trained adapter into one of the untouched base: both updates, their ranks added.

    The model in memory has the lower one in its weights still, and is not to be asked again.
    """
    model.load_adapter(str(below), _BELOW, autocast_adapter_dtype=False)
    for config in model.peft_config.values():
        # The factors go into the matrices; PEFT would apply those of the first one's kind again.
        config.use_rslora = False
    model.add_weighted_adapter([_BELOW, _TOP], [1.0, 1.0], _BOTH, "cat")
    model.delete_adapter(_TOP)
    # Its own name again, for that is what PEFT saves without a folder of its own.
    model.add_weighted_adapter([_BOTH], [1.0], _TOP, "cat")
    for name in (_BELOW, _BOTH):
        model.delete_adapter(name)
