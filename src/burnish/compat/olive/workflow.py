"""`olive run --config`: a workflow's passes, in Olive's JSON or in the documents' YAML.

Each pass becomes the command that does the same, and every key of it a flag; what no flag says is
refused by name.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from burnish.compat.olive import finetune, optimize
from burnish.compat.olive.flags import Flag, ParsedFlags, flags_from_pairs
from burnish.compat.olive.report import OliveReport
from burnish.compat.olive_search_space import SPACE, STRATEGY, to_search_section
from burnish.compat.translate import read_single_yaml
from burnish.core.errors import BadRecipe

_NO_SETUP = "burnish names what is missing when it is needed"
FLAGS: Mapping[str, Flag] = {
    "--config": Flag(),
    "--run_config": Flag(),
    "--setup": Flag(bool, ignored=_NO_SETUP),
    "--list_required_packages": Flag(bool, ignored=_NO_SETUP),
    "--output_path": Flag(),
    "--log_level": Flag(ignored="progress goes to stderr; `burnish -q` silences it"),
    "--tempdir": Flag(ignored="the machine decides"),
    "--package-config": Flag(ignored="there are no packages to configure"),
}


@dataclass(frozen=True, slots=True)
class _Pass:
    """What a type of pass is here: a command, its fixed flags, and its keys' own names."""

    command: str
    fixed: Mapping[str, str]
    keys: Mapping[str, str]


_LORA_KEYS = {
    "r": "--lora_r", "lora_r": "--lora_r", "alpha": "--lora_alpha", "lora_alpha": "--lora_alpha",
    "lora_dropout": "--lora_dropout", "target_modules": "--target_modules",
    "modules_to_save": "--modules_to_save", "torch_dtype": "--torch_dtype",
}  # fmt: skip
_BUILDER_KEYS = {"precision": "--precision", "int4_block_size": "--block_size",
                 "block_size": "--block_size"}  # fmt: skip
PASSES: Mapping[str, _Pass] = {
    "lora": _Pass("finetune", {"--method": "lora"}, _LORA_KEYS),
    "qlora": _Pass("finetune", {"--method": "qlora"}, _LORA_KEYS),
    "dora": _Pass("finetune", {"--method": "dora"}, _LORA_KEYS),
    "modelbuilder": _Pass("optimize", {}, _BUILDER_KEYS),
}
#: Passes that burnish's own steps contain.
_BUILT_IN_PASSES = {
    "mergeadapterweights": "an adapter is always merged before it is exported",
    "onnxconversion": "the model builder makes the ONNX file",
    "orttransformersoptimization": "the model builder fuses the graph",
    "extractadapters": "`finetune` leaves the adapter in a folder of its own",
}
#: Keys that hold no value for a flag, or that say what is always so here.
_IGNORED_KEYS = {
    "double_quant",
    "quant_type",
    "compute_dtype",
    "train_data_config",
    "eval_data_config",
}
#: Whether 4 bits are symmetric: a number format of its own here.
_SYMMETRY_KEYS = ("is_symmetric", "int4_is_symmetric")
_TOP_LEVEL_KEYS = {
    "input_model",
    "model",
    "data_configs",
    "passes",
    "systems",
    "host",
    "target",
    "engine",
    "output_dir",
    "cache_dir",
    "log_severity_level",
    "clean_cache",
    "evaluators",
    "evaluator",
    "workflow_id",
    STRATEGY,
    SPACE,
}


COMMANDS: Mapping[str, tuple[Callable[[ParsedFlags], OliveReport], Mapping[str, Flag]]] = {
    "finetune": (finetune.finetune, finetune.FLAGS),
    "optimize": (lambda told: optimize.optimize("optimize", told), optimize.FLAGS["optimize"]),
}


def run_workflow(parsed: ParsedFlags) -> OliveReport:
    """Run the passes of a configuration, in order, each in a folder of its name.

    With a `search_space` the pass that trains tries its settings and leaves the best. Raises
    BadRecipe and BadFlag before anything is written.
    """
    named = parsed.values.get("--config") or parsed.values.get("--run_config")
    if named is None:
        raise BadRecipe("No configuration is named.", "olive run --config FILE")
    config = _read_config(Path(named))
    output = Path(parsed.values.get("--output_path") or config.get("output_dir") or "olive-output")
    notes = list(parsed.notes)
    steps = list(_iterate_steps(config, notes))
    tuned = {"finetune": partial(finetune.finetune, search=_search_section(config, steps))}
    commands = {name: command for name, (command, _) in COMMANDS.items()} | tuned
    reports: list[OliveReport] = []
    adapter: str | None = None
    for name, command, pairs in steps:
        folder = output / name if len(steps) > 1 else output
        flags = COMMANDS[command][1]
        pairs = {**pairs, "--output_path": str(folder)}
        if adapter:
            pairs["--adapter_path"] = adapter
        reports.append(commands[command](flags_from_pairs(pairs.items(), flags)))
        if command == "finetune":
            adapter = str(folder / "adapter")
    last = reports[-1]
    notes += [note for report in reports for note in report.notes]
    facts = {"passes": {name: r.as_dict() for (name, _, _), r in zip(steps, reports, strict=True)}}
    return replace(last, command="run", folder=output.absolute(), notes=tuple(notes), facts=facts)


def _read_config(file: Path) -> dict[str, Any]:
    """The configuration; JSON is YAML too. Raises BadRecipe for keys that aren't known."""
    config = read_single_yaml(file)
    if isinstance(config, dict) and {SPACE} <= set(config) <= {STRATEGY, SPACE, "output_dir"}:
        return {**config, "passes": {}}
    if not isinstance(config, dict) or not isinstance(config.get("passes"), dict):
        raise BadRecipe(f"{file} has no `passes`.", "Write passes: {lora: {type: LoRA}}.")
    for key in config:
        if key not in _TOP_LEVEL_KEYS:
            raise BadRecipe(
                f"{file}: `{key}` isn't known.", f"Known: {', '.join(sorted(_TOP_LEVEL_KEYS))}."
            )
    if STRATEGY in (config.get("engine") or {}):
        raise BadRecipe(f"{file}: `{STRATEGY}` stands in `engine`.", "Write it beside `passes`.")
    return config


def _iterate_steps(
    config: Mapping[str, Any], notes: list[str]
) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Name, command and flags of each pass that is a command."""
    if SPACE in config and not config["passes"]:
        # The documents' file for a search has nothing else: the last model and data are meant.
        yield "lora", "finetune", {"--method": "lora"}
        return
    found = 0
    for name, content in config["passes"].items():
        kind = str(content.get("type", "")).replace("_", "").lower()
        if kind in _BUILT_IN_PASSES:
            notes.append(
                f"Pass {name} ({content['type']}) is no step of its own: {_BUILT_IN_PASSES[kind]}."
            )
            continue
        if kind not in PASSES:
            raise BadRecipe(
                f"Pass `{name}` is of type {content.get('type')}, which burnish doesn't have.",
                f"It has: {', '.join([*PASSES, *_BUILT_IN_PASSES])}.",
            )
        found += 1
        step = PASSES[kind]
        pairs = {**_model_flags(config), **step.fixed}
        if step.command == "finetune":
            pairs |= _data_flags(config, content)
        settings = {**content, **content.get("config", {})}
        pairs |= _pass_flags(name, settings, step, notes)
        if pairs.get("--precision") == "int4" and _is_asymmetric(settings):
            pairs["--precision"] = "uint4"
        yield name, step.command, pairs
    if not found:
        raise BadRecipe("No pass of the configuration leaves a model.", "Add one of type LoRA.")


def _search_section(config: Mapping[str, Any], steps: list[Any]) -> Mapping[str, Any] | None:
    """The recipe's `search` for the pass that trains; None if nothing is searched."""
    if STRATEGY not in config and SPACE not in config:
        return None
    section = to_search_section({key: config[key] for key in (STRATEGY, SPACE) if key in config})
    if [command for _, command, _ in steps].count("finetune") != 1:
        raise BadRecipe(f"`{SPACE}` is for one pass that trains.", "Keep one of type LoRA.")
    return section


def _pass_flags(
    name: str, settings: Mapping[str, Any], step: _Pass, notes: list[str]
) -> dict[str, str]:
    """The keys of a pass as flags; nested ones of `training_args` and `quantization_config` too."""
    flags = COMMANDS[step.command][1]
    pairs: dict[str, str] = {}
    for key, value in settings.items():
        if key in ("type", "config"):
            continue
        if key in ("training_args", "quantization_config"):
            pairs |= _pass_flags(name, value, step, notes)
        elif key in _SYMMETRY_KEYS and step.command == "optimize":
            continue
        elif key in _IGNORED_KEYS or key in _SYMMETRY_KEYS:
            notes.append(f"Pass {name}: `{key}` is as burnish has it, whatever is written.")
        elif (flag := step.keys.get(key, f"--{key}")) in flags:
            pairs[flag] = _text(value)
        else:
            raise BadRecipe(f"Pass `{name}`: `{key}` isn't known.", f"Known: {', '.join(flags)}.")
    return pairs


def _is_asymmetric(settings: Mapping[str, Any]) -> bool:
    whole = {**settings, **settings.get("quantization_config", {})}
    return any(whole.get(key) is False for key in _SYMMETRY_KEYS)


def _model_flags(config: Mapping[str, Any]) -> dict[str, str]:
    model = config.get("input_model") or config.get("model") or {}
    settings = {**model, **model.get("config", {})}
    path = settings.get("model_path")
    if not path:
        raise BadRecipe("The configuration names no model.", "input_model: {model_path: NAME}")
    return {"--model_name_or_path": str(path)}


def _data_flags(config: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, str]:
    """The data of a training pass: the one that it names, or the first."""
    given = {**content, **content.get("config", {})}
    known = {data.get("name"): data for data in config.get("data_configs", ())}
    if not known:
        raise BadRecipe("The configuration names no data.", "Add data_configs.")
    train = _find_data(known, given.get("train_data_config") or next(iter(known)))
    load = train.get("load_dataset_config", {})
    before = train.get("pre_process_data_config", {})
    pairs = {
        "--data_name": load.get("data_name") or load.get("path"),
        "--data_files": load.get("data_files"),
        "--train_split": load.get("split"),
        "--text_template": before.get("text_template"),
        "--text_field": before.get("text_cols") or before.get("text_field"),
        "--max_seq_len": before.get("max_seq_len"),
        "--max_samples": before.get("max_samples"),
    }
    if given.get("eval_data_config"):
        asked = _find_data(known, given["eval_data_config"])
        pairs["--eval_split"] = asked.get("load_dataset_config", {}).get("split")
    return {flag: _text(value) for flag, value in pairs.items() if value is not None}


def _find_data(known: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if name not in known:
        raise BadRecipe(f"There is no data `{name}`.", f"data_configs has: {', '.join(known)}.")
    found: Mapping[str, Any] = known[name]
    return found


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
