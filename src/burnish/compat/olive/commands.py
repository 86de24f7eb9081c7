"""`burnish olive WORD ...`: the table of Olive's commands, and the flags that each reads."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from burnish.compat.olive import convert, finetune, optimize, workflow
from burnish.compat.olive.flags import BadFlag, Flag, ParsedFlags, parse_flags
from burnish.compat.olive.report import OliveReport

Command = tuple[Callable[[ParsedFlags], OliveReport], Mapping[str, Flag]]
COMMANDS: Mapping[str, Command] = {
    "finetune": (finetune.finetune, finetune.FLAGS),
    "run": (workflow.run_workflow, workflow.FLAGS),
    **{
        name: (partial(optimize.optimize, name), optimize.FLAGS[name])
        for name in ("auto-opt", "optimize", "quantize")
    },
    "extract-adapters": (
        partial(optimize.extract_adapters, "extract-adapters"),
        optimize.FLAGS["extract-adapters"],
    ),
    "convert-adapters": (convert.convert_adapters, convert.FLAGS),
    "generate-adapter": (
        partial(optimize.generate_adapter, "generate-adapter"),
        optimize.FLAGS["generate-adapter"],
    ),
}
#: Commands of Olive that burnish has another word for.
ALTERNATIVES = {
    "capture-onnx-graph": "`burnish olive auto-opt` makes the ONNX folder.",
    "generate-cost-model": "`burnish export RUN --for-this-machine` measures instead.",
    "tune-session-params": "`burnish export RUN --for-this-machine` tries threads.",
    "benchmark": "`burnish evaluate RECIPE --source RUN`.",
    "configure-qualcomm-sdk": "burnish exports for CPUs.",
    "shared-cache": "burnish has no shared cache.",
}


def run_command(words: Sequence[str]) -> OliveReport:
    """Run a command line of Olive's. Raises BadFlag, and what its command raises."""
    if not words or words[0] not in COMMANDS:
        name = words[0] if words else "nothing"
        raise BadFlag(
            f"`olive {name}` isn't a command here.",
            ALTERNATIVES.get(name, f"Commands: {', '.join(COMMANDS)}."),
        )
    command, flags = COMMANDS[words[0]]
    return command(parse_flags(words[1:], flags))
