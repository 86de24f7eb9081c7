"""DeepSpeed's configuration file, read strictly: each key becomes a setting of the recipe, changes
nothing here and says so, or is refused by name. DeepSpeed itself isn't called.

Meanings and defaults are those of its documentation (https://www.deepspeed.ai/docs/config-json).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.compat.translate import ImportedConfig, KeyRule, as_changes, leaves, translate
from burnish.core.errors import BadRecipe
from burnish.core.recipe.train import Train

_STAGES = ((0, "ddp"), (1, "zero1"), (2, "zero2"), (3, "zero3"))
_OPTIMIZERS = (("AdamW", None), ("Adam", None))
_SCHEDULES = (("WarmupLR", "constant"), ("WarmupDecayLR", "linear"), ("WarmupCosineLR", "cosine"))
_OFF = ((False, None),)
_OFFLOAD = KeyRule(
    values=(("none", None),),
    refused="nothing is moved to main memory. Let it be none; train.method=qlora, zero3 on more "
    "devices and train.gradient_checkpointing save memory too (`burnish forecast`)",
)
_SENDING = "what is sent together is fixed here"
_LOSS_SCALE = "only float16 scales its loss"
_LOGGED = "every step's figures are in the run's metrics.jsonl"
_WHOLE = "the artifact is always whole"

#: Dotted keys, or the sections that they are in.
KEYS: Mapping[str, KeyRule] = {
    "train_batch_size": KeyRule("train.batch_size"),
    "train_micro_batch_size_per_gpu": KeyRule(),
    "gradient_accumulation_steps": KeyRule(),
    "gradient_clipping": KeyRule("train.max_grad_norm"),
    "bf16.enabled": KeyRule(
        "model.dtype",
        values=((True, "bfloat16"), (False, "float32")),
        refused="it is true, false or auto",
    ),
    "fp16.enabled": KeyRule(values=_OFF, refused="gradients overflow in it; use bf16"),
    "fp16": KeyRule(ignored=_LOSS_SCALE),
    "optimizer.type": KeyRule(values=_OPTIMIZERS, refused="burnish trains with AdamW"),
    "optimizer.params.lr": KeyRule("train.learning_rate"),
    "optimizer.params.weight_decay": KeyRule("train.weight_decay"),
    "optimizer.params.betas": KeyRule(
        values=(([0.9, 0.999], None),), refused="AdamW's are 0.9 and 0.999 here"
    ),
    "optimizer.params.eps": KeyRule(values=((1e-8, None),), refused="AdamW's is 1e-8 here"),
    "optimizer.params.adam_w_mode": KeyRule(
        values=((True, None),), refused="weight decay is decoupled here"
    ),
    "optimizer.params.torch_adam": KeyRule(ignored="the optimizer is PyTorch's"),
    "scheduler.type": KeyRule(
        "train.schedule", values=_SCHEDULES, refused="there is no such schedule"
    ),
    "scheduler.params.warmup_max_lr": KeyRule("train.learning_rate"),
    "scheduler.params.warmup_min_lr": KeyRule(
        values=((0, None),), refused="the warm-up begins at the first step's share of the rate"
    ),
    "scheduler.params.warmup_min_ratio": KeyRule(
        values=((0, None),), refused="the warm-up begins at the first step's share of the rate"
    ),
    "scheduler.params.cos_min_ratio": KeyRule(
        values=((0, None), (0.0001, None)), refused="the rate falls to 0 here"
    ),
    "scheduler.params.warmup_num_steps": KeyRule(),
    "scheduler.params.total_num_steps": KeyRule("train.max_steps"),
    "scheduler.params.warmup_type": KeyRule(
        values=(("linear", None),), refused="the warm-up is linear here; let it be linear"
    ),
    "zero_optimization.stage": KeyRule(
        "train.parallel", values=_STAGES, refused="there are 0, 1, 2 and 3"
    ),
    "zero_optimization.offload_optimizer.device": _OFFLOAD,
    "zero_optimization.offload_param.device": _OFFLOAD,
    "zero_optimization.offload_optimizer": KeyRule(ignored="nothing is offloaded"),
    "zero_optimization.offload_param": KeyRule(ignored="nothing is offloaded"),
    **{
        f"zero_optimization.{name}": KeyRule(ignored=_SENDING)
        for name in (
            "overlap_comm", "contiguous_gradients", "reduce_scatter", "reduce_bucket_size",
            "allgather_partitions", "allgather_bucket_size", "round_robin_gradients",
            "sub_group_size", "stage3_prefetch_bucket_size", "stage3_max_live_parameters",
            "stage3_max_reuse_distance", "stage3_param_persistence_threshold",
        )
    },
    "zero_optimization.stage3_gather_16bit_weights_on_model_save": KeyRule(ignored=_WHOLE),
    "zero_optimization.stage3_gather_fp16_weights_on_model_save": KeyRule(ignored=_WHOLE),
    "zero_optimization.ignore_unused_parameters": KeyRule(
        ignored="weights without gradient may stand"
    ),
    "zero_allow_untested_optimizer": KeyRule(ignored="the optimizer is burnish's"),
    "zero_force_ds_cpu_optimizer": KeyRule(ignored="the optimizer is burnish's"),
    "activation_checkpointing": KeyRule(ignored="train.gradient_checkpointing says it here"),
    "steps_per_print": KeyRule(ignored=_LOGGED),
    "wall_clock_breakdown": KeyRule(ignored=_LOGGED),
    "dump_state": KeyRule(ignored=_LOGGED),
    "memory_breakdown": KeyRule(ignored=_LOGGED),
    "flops_profiler": KeyRule(ignored=_LOGGED),
}  # fmt: skip

#: DeepSpeed's own, where its file says nothing.
_WARM, _ACCUMULATION = 1000, 1

_MICRO, _ACCUMULATED = "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"
_WARMED = "scheduler.params.warmup_num_steps"


@dataclass(frozen=True, slots=True)
class DeepspeedConfig(ImportedConfig):
    """`each` are the rows of a step in one process, and `warm` the steps of the warm-up, where the
    file says so."""

    rows_per_process: int | None
    warmup_steps: int | None

    def dependent(self, train: Train) -> list[str]:
        """See Meant."""
        count = 1 if train.parallel == "none" else train.devices
        if self.rows_per_process and not count:
            raise BadRecipe(
                f"{_MICRO} are rows of each process, and their number isn't known.",
                "Add --set train.devices=N, or give train_batch_size in the file.",
            )
        found = (
            [f"train.batch_size={self.rows_per_process * count}"] if self.rows_per_process else []
        )
        if self.warmup_steps and not train.max_steps:
            raise BadRecipe(
                f"A warm-up of {self.warmup_steps} steps ({_WARMED}) is a share of all steps here, "
                "and "
                "their number isn't known.",
                "Add --set train.max_steps=N, or give scheduler.params.total_num_steps.",
            )
        if self.warmup_steps is not None:
            found.append(f"train.warmup_ratio={self.warmup_steps / (train.max_steps or 1)}")
        return found


def read_deepspeed(path: Path) -> DeepspeedConfig:
    """Read a `ds_config.json`. Raises BadRecipe and names every key that can't be honoured."""
    told = dict(leaves(_load_json(path)))
    found = translate(path, told, KEYS, "auto")
    begun = {} if "zero_optimization.stage" in told else {"train.parallel": "ddp"}
    fields, notes = begun | found.fields, found.notes
    peak = told.get("scheduler.params.warmup_max_lr", "auto")
    if peak != "auto":
        fields["train.learning_rate"] = peak
    if told.get("gradient_clipping", 0) == 0:
        fields.pop("train.max_grad_norm", None)
        notes.append("gradients are clipped here where DeepSpeed doesn't; see train.max_grad_norm")
    return DeepspeedConfig(
        as_changes(fields),
        (*notes, *_differences(told)),
        _rows_per_process(told),
        _warmup_steps(told),
    )


def _differences(values: Mapping[str, Any]) -> Iterator[str]:
    """What DeepSpeed would do without being told, and burnish does otherwise."""
    if values.get("fp16.enabled") == "auto" and values.get("bf16.enabled") is False:
        yield "bf16.enabled is false and fp16.enabled auto: model.dtype is float32"
    if _warmup_steps(values) and "scheduler.params.warmup_type" not in values:
        yield "the warm-up is linear here; DeepSpeed's is logarithmic if warmup_type is absent"
    if "scheduler.params.total_num_steps" in values:
        yield "the schedule ends where the training does: total_num_steps bounds both"
    has_batch = isinstance(values.get("train_batch_size"), int)
    if has_batch and {_MICRO, _ACCUMULATED} & set(values):
        yield f"{_MICRO} and {_ACCUMULATED}: passes are filled by train.micro_batch_tokens"
    is_alone = values.get(_MICRO, "auto") == "auto" and values.get(_ACCUMULATED, "auto") != "auto"
    if is_alone and not has_batch:
        yield f"{_ACCUMULATED} changes nothing here without a number in {_MICRO}"
    rates = [values.get("optimizer.params.lr"), values.get("scheduler.params.warmup_max_lr")]
    if "auto" not in rates and None not in rates and rates[0] != rates[1]:
        yield "scheduler.params.warmup_max_lr is taken before optimizer.params.lr"


def _rows_per_process(values: Mapping[str, Any]) -> int | None:
    """Rows of a step in one process, if they are what the batch is told by."""
    if isinstance(values.get("train_batch_size"), int):
        return None
    micro, passes = values.get(_MICRO), values.get(_ACCUMULATED, _ACCUMULATION)
    if micro in (None, "auto") or passes == "auto":
        return None
    return int(_as_integer(_MICRO, micro) * _as_integer(_ACCUMULATED, passes))


def _warmup_steps(values: Mapping[str, Any]) -> int | None:
    """Steps of the warm-up, if the file has a scheduler that says how many."""
    steps = values.get(_WARMED, _WARM if "scheduler.type" in values else "auto")
    return None if steps == "auto" else _as_integer(_WARMED, steps)


def _as_integer(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadRecipe(f"{name} is {json.dumps(value)}.", "It should be a whole number, or auto.")
    return value


def _load_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(
            path.read_text(encoding="utf-8"), object_pairs_hook=_reject_duplicate_keys
        )
    except (OSError, ValueError) as error:
        raise BadRecipe(f"{path} cannot be read: {error}", "Name a JSON file.") from error
    if not isinstance(found, dict):
        raise BadRecipe(f"{path} is not a JSON object.", "It should be DeepSpeed's configuration.")
    return found


def _reject_duplicate_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A section. Raises ValueError for a key that stands twice, of which one would be dropped."""
    names = [name for name, _ in pairs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{', '.join(sorted(twice))} stands twice")
    return dict(pairs)
