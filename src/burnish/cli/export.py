"""`burnish export`: the trained model as what will be served, and proof that it is the same."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from burnish.cli.options import AsJson, Changes
from burnish.cli.output import format_facts, format_table, show
from burnish.core.number_format import duration, share, size

if TYPE_CHECKING:
    from burnish.api import ExportResult, MultiAdapterExport, SearchResult

_HEADS = ("candidate", "questions", "{metric}", "p50", "p95", "memory", "disk", "start", "")
_Others = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="RUN",
        help="With --to onnx: put this run's adapter beside the first one's, on one base; a "
        "request says which answers. Repeatable.",
    ),
]
_ReadyFor = Annotated[
    list[str] | None,
    typer.Option(help="Make it ready for foundry, lmstudio, mlflow or vllm. Repeatable."),
]

_Format = Annotated[
    str | None,
    typer.Option(
        help="merged, adapter, gguf, gguf-lora, onnx or openvino. [default: the recipe's]"
    ),
]
_Quant = Annotated[
    str | None, typer.Option(help="Number format: bf16, q8_0, q4_k_m, ... [default: auto]")
]
_DropLayers = Annotated[
    int | None, typer.Option(help="Leave out so many layers, those that change least.")
]
_Search = Annotated[
    bool, typer.Option("--for-this-machine", help="Try all formats here and take the best.")
]
_Folder = Annotated[
    Path | None, typer.Option(help="The folder to write. [default: exports/ in the run]")
]


def command(
    run: Annotated[str, typer.Argument(help="A run: its id, its folder, or `last`.")],
    to: _Format = None,
    quant: _Quant = None,
    others: _Others = None,
    ready_for: _ReadyFor = None,
    drop_layers: _DropLayers = None,
    for_this_machine: _Search = False,
    latency_p50: Annotated[str | None, typer.Option(help="Limit of the search: 200ms.")] = None,
    latency_p95: Annotated[str | None, typer.Option(help="Limit of the search: 300ms.")] = None,
    memory: Annotated[str | None, typer.Option(help="Limit of the search: 1GB.")] = None,
    disk: Annotated[str | None, typer.Option(help="Limit of the search: 200MB.")] = None,
    start_up: Annotated[str | None, typer.Option(help="Limit of the search: 5s.")] = None,
    out: _Folder = None,
    changes: Changes = None,
    as_json: AsJson = False,
) -> None:
    """Write a run in the format that will be served, and ask it there before it may ship.

    Exit code 1 means that the result doesn't answer like the trained model, or that no format
    keeps the limits.

    Example: burnish export last --to gguf --quant q8_0 --out triage-gguf

    Example: burnish export A --to onnx --with B --out both

    Example: burnish export last --for-this-machine --latency-p95 300ms --memory 1GB
    """
    from burnish import api

    result = api.export(
        run,
        to,
        quant,
        out,
        changes or (),
        others=others or (),
        ready_for=ready_for or (),
        drop_layers=drop_layers,
        for_this_machine=for_this_machine,
        latency_p50=latency_p50,
        latency_p95=latency_p95,
        memory=memory,
        disk=disk,
        start_up=start_up,
    )
    if others:
        text = _format_adapters(cast("MultiAdapterExport", result))
    elif for_this_machine:
        text = _format_candidates(cast("SearchResult", result))
    else:
        text = _format_gate(cast("ExportResult", result))
    show(text, result.as_dict(), as_json)
    raise typer.Exit(result.exit_code)


def _format_adapters(result: "MultiAdapterExport") -> str:
    """What the gate of each adapter measured."""
    facts = {"folder": str(result.artifact.path), "not mixed": f"{result.compared} answers"}
    text = [format_facts(facts)]
    for name, parity in result.parities.items():
        lines = {"adapter": name, **result.measurements(name)}
        text += ["", format_facts({**lines, "shippable": "yes" if parity.shippable else "no"})]
        text += [f"- {reason}" for reason in parity.against]
    return "\n".join(text)


def _format_gate(result: "ExportResult") -> str:
    """What the gate measured, whether it may ship, and what speaks against it."""
    lines = {"folder": str(result.artifact.path), **result.measurements()}
    lines["shippable"] = "yes" if result.parity.shippable else "no"
    return "\n".join([format_facts(lines), *[f"- {reason}" for reason in result.parity.against]])


def _format_candidates(result: "SearchResult") -> str:
    """Return the table of candidates, and the pick or why there is none."""
    rows = []
    for trial in result.trials:
        facts, n = result.trial_facts(trial), len(trial.scores)
        fate = f"{trial.dropped.kind}: {trial.dropped.why}" if trial.dropped else ""
        rows.append((
            str(trial.candidate), str(n), share(facts["score"]),
            *[duration(trial.latency(part)) if trial.seconds else "–" for part in (0.5, 0.95)],
            size(trial.memory_bytes), size(facts["disk_bytes"]), duration(trial.start_up_s),
            "PICKED" if trial is result.pick else fate,
        ))  # fmt: skip
    lines = {"folder": str(result.folder), "report": str(result.folder / "export.html")}
    lines["picked"] = str(result.pick.candidate) if result.pick else "none"
    lines |= {"serve it": result.serve_command} if result.serve_command else {}
    heads = [head.format(metric=result.metric) for head in _HEADS]
    return "\n".join(
        [format_table(heads, rows), "", format_facts(lines), *[f"- {x}" for x in result.against]]
    )
