"""`burnish export`: the trained model as what will be served, and proof that it is the same."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from burnish.cli.options import AsJson, Changes
from burnish.cli.output import format_facts, format_table, show
from burnish.core.errors import BadRecipe

if TYPE_CHECKING:
    from burnish.export.run import ExportResult
    from burnish.export.search.result import SearchResult

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
_LIMITS = ("latency_p50", "latency_p95", "memory", "disk", "start_up")


def command(
    run: Annotated[str, typer.Argument(help="A run: its id, its folder, or `last`.")],
    to: Annotated[
        str | None,
        typer.Option(
            help="merged, adapter, gguf, gguf-lora, onnx or openvino. [default: the recipe's]"
        ),
    ] = None,
    quant: Annotated[
        str | None, typer.Option(help="Number format: bf16, q8_0, q4_k_m, ... [default: auto]")
    ] = None,
    others: _Others = None,
    ready_for: _ReadyFor = None,
    drop_layers: Annotated[
        int | None, typer.Option(help="Leave out so many layers, those that change least.")
    ] = None,
    here: Annotated[
        bool,
        typer.Option("--for-this-machine", help="Try all formats here and take the best."),
    ] = False,
    latency_p50: Annotated[str | None, typer.Option(help="Limit of the search: 200ms.")] = None,
    latency_p95: Annotated[str | None, typer.Option(help="Limit of the search: 300ms.")] = None,
    memory: Annotated[str | None, typer.Option(help="Limit of the search: 1GB.")] = None,
    disk: Annotated[str | None, typer.Option(help="Limit of the search: 200MB.")] = None,
    start_up: Annotated[str | None, typer.Option(help="Limit of the search: 5s.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write. [default: exports/ in the run]")
    ] = None,
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

    if others:
        _check_target(to, bool(ready_for or here or drop_layers is not None))
        raise typer.Exit(_export_switchable([run, *others], quant, out, changes or [], as_json))
    limits = zip(_LIMITS, (latency_p50, latency_p95, memory, disk, start_up), strict=True)
    told = {name: limit for name, limit in limits if limit is not None}
    dropped = [] if drop_layers is None else [f"export.drop_layers={drop_layers}"]
    changed = [*dropped, *(changes or ())]
    if here or told:
        _check_flags(here, bool(to or quant or ready_for))
        fitted = api.export_fit(run, told, out=out, changes=changed)
        show(_format_candidates(fitted), fitted.as_dict(), as_json)
        raise typer.Exit(fitted.exit_code)
    ready = [f"export.ready_for=[{', '.join(ready_for)}]"] if ready_for else []
    done = api.export(run, to=to, quant=quant, out=out, changes=[*ready, *changed])
    show(_format_gate(done), done.as_dict(), as_json)
    raise typer.Exit(done.exit_code)


def _check_target(to: str | None, more: bool) -> None:
    if to != "onnx" or more:
        raise BadRecipe(
            "--with goes with --to onnx, and without --ready-for, --drop-layers and a search.",
            "burnish export RUN --to onnx --with RUN --out FOLDER; for llama.cpp: burnish olive "
            "generate-adapter.",
        )


def _export_switchable(
    runs: list[str], quant: str | None, out: Path | None, changes: list[str], as_json: bool
) -> int:
    """Export them as one folder, and show what each one's gate found; the exit code."""
    from burnish.export.model_card import format_measurements
    from burnish.multi_adapter import export_switchable

    done = export_switchable(runs, quant or "auto", out, changes)
    text = [
        format_facts({"folder": str(done.artifact.path), "not mixed": f"{done.compared} answers"})
    ]
    for name, found in done.parities.items():
        lines = {"adapter": name, **format_measurements(found.facts, done.size_bytes)}
        text += ["", format_facts({**lines, "shippable": "yes" if found.shippable else "no"})]
        text += [f"- {reason}" for reason in found.against]
    show("\n".join(text), done.as_dict(), as_json)
    return done.exit_code


def _format_gate(done: "ExportResult") -> str:
    """What the gate measured, whether it may ship, and what speaks against it."""
    from burnish.export.model_card import format_measurements

    found = done.parity
    lines = {"folder": str(done.artifact.path), **format_measurements(found.facts, done.size_bytes)}
    lines["shippable"] = "yes" if found.shippable else "no"
    return "\n".join([format_facts(lines), *[f"- {reason}" for reason in found.against]])


def _check_flags(here: bool, formed: bool) -> None:
    if not here:
        raise BadRecipe("Limits are for a search.", "Add --for-this-machine.")
    if formed:
        raise BadRecipe(
            "--for-this-machine finds the format itself.",
            "Leave --to, --quant and --ready-for out, or name formats: "
            "--set 'export.fit.formats=[gguf:q8_0]'",
        )


def _format_candidates(fitted: "SearchResult") -> str:
    """The table of candidates, and the pick or why there is none."""
    from burnish.report.numbers import duration, share, size

    rows = []
    for trial in fitted.trials:
        found, n = fitted.trial_facts(trial), len(trial.scores)
        fate = f"{trial.dropped.kind}: {trial.dropped.why}" if trial.dropped else ""
        rows.append((
            str(trial.candidate), str(n), share(found["score"]),
            *[duration(trial.latency(part)) if trial.seconds else "–" for part in (0.5, 0.95)],
            size(trial.memory_bytes), size(found["disk_bytes"]), duration(trial.start_up_s),
            "PICKED" if trial is fitted.pick else fate,
        ))  # fmt: skip
    lines = {"folder": str(fitted.folder), "report": str(fitted.folder / "export.html")}
    lines["picked"] = str(fitted.pick.candidate) if fitted.pick else "none"
    lines |= {"serve it": fitted.serve_command} if fitted.serve_command else {}
    heads = [head.format(metric=fitted.metric) for head in _HEADS]
    return "\n".join(
        [format_table(heads, rows), "", format_facts(lines), *[f"- {x}" for x in fitted.against]]
    )
