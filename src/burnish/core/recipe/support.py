"""What goes with what: one table for the validator, the refusals, the docs and the tests.

A recipe, a model and a command are choices on axes (an objective, a method, …). A rule says which
choices of another axis a choice goes with; what no rule excludes goes together. A new objective,
method or model family is one more choice, and what it can't do is one more rule.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from burnish.core.errors import BadRecipe

#: Axis → its choices. `flag` are settings beside the others; `start` is an adapter that doesn't
#: begin at zero (init pissa, init_from, stack_on), and `hidden_states` a teacher whose inside is
#: compared. `model` is the kind of the base model, `run` what trains it besides `burnish train`.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "objective": (
        "sft", "dpo", "orpo", "simpo", "kto", "distill", "grpo", "custom",
        "classify", "token_classify", "embed", "reward", "seq2seq",
    ),
    "method": ("lora", "dora", "qlora", "auto", "ia3", "bottleneck", "prompt", "prefix", "full"),
    "parallel": ("none", "ddp", "zero1", "zero2", "zero3", "fsdp"),
    "flag": (
        "gradient_checkpointing", "compile", "group_by_prefix", "quantization_aware",
        "adamw_8bit", "on_policy", "hidden_states", "dropout", "start", "tracker", "images",
    ),
    "model": ("causal", "seq2seq", "vision", "embedding", "reranker"),
    "run": ("together", "compare"),
    "route": (
        "base", "few_shot", "retrieval", "classifier", "encoder", "fine_tuned",
        "retrieval_fine_tuned", "teacher",
    ),
    "format": ("merged", "adapter", "gguf", "gguf-lora", "onnx", "openvino"),
    "export": ("importance", "drop_layers", "ready_for"),
}  # fmt: skip

#: Choices whose names don't explain themselves in a sentence.
NAMES: Mapping[tuple[str, str], str] = {
    ("flag", "start"): "an adapter that doesn't begin at zero",
    ("flag", "hidden_states"): "comparing hidden states or attention",
    ("flag", "dropout"): "method.dropout",
    ("flag", "adamw_8bit"): "optimizer adamw_8bit",
    ("model", "causal"): "a causal language model",
    ("model", "seq2seq"): "an encoder-decoder",
    ("model", "vision"): "a vision-language model",
    ("model", "embedding"): "an embedding model",
    ("model", "reranker"): "a cross-encoder",
}
#: Objectives whose models make no text: labels, vectors, or a reward.
ENCODING = ("classify", "token_classify", "embed", "reward")
#: Objectives of models that write text behind a prompt.
_WRITING = ("sft", "dpo", "orpo", "simpo", "kto", "distill", "grpo", "custom")
_NOT_CAUSAL = (*ENCODING, "seq2seq")
_UNSHARDED = ("none", "ddp", "zero1", "zero2")


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportRule:
    """Each of `choices` (on `axis`) goes with `only` these choices of the axis `other`, or with all
    `but` these; `because` is the reason, where it isn't plain."""

    axis: str
    choices: tuple[str, ...]
    other: str
    only: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    because: str = ""

    def excludes(self, choice: str, other: str) -> bool:
        """Return whether the rule keeps a choice of its axis from a choice of the other one."""
        is_out = other in self.but or bool(self.only and other not in self.only)
        return choice in self.choices and is_out


SUPPORT = (
    # Objectives.
    SupportRule(axis="objective", choices=_NOT_CAUSAL, other="method", only=("lora", "full")),
    SupportRule(
        axis="objective",
        choices=_NOT_CAUSAL,
        other="flag",
        but=("start", "gradient_checkpointing", "compile", "group_by_prefix"),
    ),
    SupportRule(axis="objective", choices=(*_NOT_CAUSAL, "grpo"), other="parallel", only=("none",)),
    SupportRule(
        axis="objective",
        choices=("dpo", "kto"),
        other="parallel",
        only=_UNSHARDED,
        because="its reference needs the whole model",
    ),
    # Methods.
    SupportRule(
        axis="method",
        choices=("dora", "qlora", "auto", "ia3", "bottleneck", "prompt", "prefix"),
        other="parallel",
        only=_UNSHARDED,
    ),
    # Settings.
    SupportRule(
        axis="flag",
        choices=("compile", "group_by_prefix", "adamw_8bit", "on_policy", "hidden_states"),
        other="parallel",
        only=("none",),
    ),
    SupportRule(
        axis="flag",
        choices=("hidden_states",),
        other="method",
        but=("prompt", "prefix"),
        because="it puts tokens before a row that the teacher doesn't have: set objective.hidden "
        "and objective.attention.weight 0",
    ),
    SupportRule(
        axis="flag",
        choices=("quantization_aware",),
        other="objective",
        only=("sft", "distill"),
    ),
    SupportRule(
        axis="flag", choices=("quantization_aware",), other="method", only=("lora", "full")
    ),
    SupportRule(axis="flag", choices=("quantization_aware",), other="flag", but=("dropout",)),
    SupportRule(axis="flag", choices=("quantization_aware",), other="parallel", only=_UNSHARDED),
    # Kinds of models.
    SupportRule(axis="model", choices=("vision",), other="objective", only=("sft",)),
    SupportRule(axis="model", choices=("vision",), other="method", only=("lora", "full")),
    SupportRule(axis="model", choices=("vision",), other="parallel", only=("none",)),
    SupportRule(
        axis="model",
        choices=("vision",),
        other="flag",
        but=(
            "start",
            "gradient_checkpointing",
            "compile",
            "group_by_prefix",
            "quantization_aware",
        ),
    ),
    SupportRule(
        axis="objective",
        choices=("seq2seq",),
        other="model",
        only=("seq2seq",),
        because="it is for encoder-decoders, such as a T5 or a BART",
    ),
    SupportRule(
        axis="model",
        choices=("seq2seq",),
        other="objective",
        but=_WRITING,
        because="this objective is for language models",
    ),
    SupportRule(
        axis="objective",
        choices=_WRITING,
        other="model",
        but=("embedding", "reranker"),
        because="it doesn't write text",
    ),
    SupportRule(
        axis="objective",
        choices=("embed",),
        other="model",
        only=("embedding",),
        because="it doesn't make vectors of texts",
    ),
    SupportRule(
        axis="objective",
        choices=("reward",),
        other="model",
        only=("causal",),
        because="a reward model is trained from a language model",
    ),
    # Commands.
    SupportRule(
        axis="run",
        choices=("together",),
        other="objective",
        only=("sft", "orpo", "simpo"),
        because="a step needs nothing but its rows",
    ),
    SupportRule(axis="run", choices=("together",), other="method", only=("lora",)),
    SupportRule(axis="run", choices=("together",), other="parallel", only=("none",)),
    SupportRule(
        axis="run",
        choices=("together",),
        other="flag",
        but=("dropout", "start", "compile", "tracker"),
    ),
    SupportRule(
        axis="run",
        choices=("compare",),
        other="objective",
        but=ENCODING,
        because="compare fine-tunes a language model",
    ),
    # Routes of a comparison.
    SupportRule(
        axis="route",
        choices=("few_shot",),
        other="objective",
        but=("seq2seq",),
        because="an encoder-decoder wasn't trained to go on behind examples",
    ),
    SupportRule(
        axis="route",
        choices=("classifier", "encoder", "retrieval", "retrieval_fine_tuned"),
        other="flag",
        but=("images",),
        because="it would go by the words alone",
    ),
    # Exports.
    SupportRule(axis="model", choices=("seq2seq",), other="format", only=("merged", "adapter")),
    SupportRule(
        axis="model", choices=("seq2seq",), other="export", but=("drop_layers", "ready_for")
    ),
    SupportRule(
        axis="export",
        choices=("importance",),
        other="format",
        only=("gguf", "gguf-lora", "openvino"),
        because="only these are rounded by importance",
    ),
    SupportRule(
        axis="export",
        choices=("drop_layers",),
        other="format",
        but=("adapter", "gguf-lora"),
        because="it ships an adapter, and layers are left out of the whole model",
    ),
)


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two choices that don't go together, each with its axis; what the first goes with instead."""

    axis: str
    choice: str
    other: str
    value: str
    because: str

    @property
    def message(self) -> str:
        """One sentence without a full stop: what doesn't go together, and why."""
        names = f"{describe(self.axis, self.choice)} doesn't go with "
        names += describe(self.other, self.value)
        return f"{names}: {self.because}" if self.because else names

    @property
    def fix(self) -> str:
        """What the first choice goes with; empty where that is all but the second."""
        fitting = allowed(self.axis, self.choice, self.other)
        if self.other in ("flag", "export"):
            return f"Leave {describe(self.other, self.value)} out."
        return f"It goes with {self.other} {', '.join(fitting)}." if fitting else ""


def describe(axis: str, choice: str) -> str:
    """Return a choice as it stands in a sentence."""
    plain = choice if axis in ("flag", "run", "export") else f"{axis} {choice}"
    return NAMES.get((axis, choice), plain)


def goes_together(axis: str, choice: str, other: str, value: str) -> bool:
    """Return whether a choice goes with a choice of another axis."""
    return conflict(axis, choice, other, value) is None


def allowed(axis: str, choice: str, other: str) -> tuple[str, ...]:
    """Return the choices of the axis `other` that a choice goes with."""
    return tuple(value for value in CHOICES[other] if goes_together(axis, choice, other, value))


def conflict(axis: str, choice: str, other: str, value: str) -> Conflict | None:
    """Return why a choice doesn't go with a choice of another axis; None if it does."""
    for rule in SUPPORT:
        if (rule.axis, rule.other) == (axis, other) and rule.excludes(choice, value):
            return Conflict(axis, choice, other, value, rule.because)
        if (rule.axis, rule.other) == (other, axis) and rule.excludes(value, choice):
            return Conflict(other, value, axis, choice, rule.because)
    return None


def conflicts(choices: Mapping[str, Sequence[str]]) -> Iterator[Conflict]:
    """Yield the choices (axis → chosen ones) that don't go together, in the order of the table."""
    for rule in SUPPORT:
        for choice in choices.get(rule.axis, ()):
            for value in choices.get(rule.other, ()):
                if rule.excludes(choice, value):
                    yield Conflict(rule.axis, choice, rule.other, value, rule.because)


def require_model_support(choices: Mapping[str, Sequence[str]], name: str, kind: str) -> None:
    """Raise BadRecipe for the first of the choices that the model `name`, of a kind, can't do."""
    for found in conflicts({**choices, "model": (kind,)}):
        sides = {found.axis: found.choice, found.other: found.value}
        if "model" not in sides:
            continue
        del sides["model"]
        ((axis, choice),) = sides.items()
        reason = f": {found.because}" if found.because else ""
        fitting = ", ".join(allowed("model", kind, axis))
        raise BadRecipe(
            f"{name} is {describe('model', kind)}, which doesn't go with {describe(axis, choice)}"
            f"{reason}.",
            f"Leave {describe(axis, choice)} out."
            if axis == "flag"
            else f"Set train.{axis} to one of: {fitting}; or name another model in model.name.",
        )


def support_table() -> str:
    """Return the table of objectives as Markdown, for the docs."""
    heads = ("objective", "methods", "parallel", "settings it goes without", "models")
    lines = [
        (
            f"`{objective}`",
            _listed("objective", objective, "method"),
            _listed("objective", objective, "parallel"),
            _without("objective", objective),
            _listed("objective", objective, "model"),
        )
        for objective in CHOICES["objective"]
    ]
    return _markdown(heads, lines)


def _listed(axis: str, choice: str, other: str) -> str:
    fitting = allowed(axis, choice, other)
    return "all" if fitting == CHOICES[other] else ", ".join(f"`{value}`" for value in fitting)


def _without(axis: str, choice: str) -> str:
    fitting = allowed(axis, choice, "flag")
    return ", ".join(f"`{flag}`" for flag in CHOICES["flag"] if flag not in fitting) or "–"


def _markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
