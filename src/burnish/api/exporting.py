"""Write a trained model in the format that will be served: `export`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from burnish.api.inputs import Source, changed_recipe
from burnish.core.errors import BadRecipe
from burnish.core.runs import find_run

if TYPE_CHECKING:
    from burnish.export.multi_adapter import MultiAdapterExport
    from burnish.export.run import ExportResult
    from burnish.export.search.result import SearchResult


class SearchLimits(TypedDict, total=False):
    """Limits of the search for a format; each has a unit: `200ms`, `1GB`, `5s`."""

    latency_p50: str | None
    latency_p95: str | None
    memory: str | None
    disk: str | None
    start_up: str | None


class PackagingOptions(TypedDict, total=False):
    """`ready_for` names programs that the folder is made ready for; `drop_layers` layers are left
    out."""

    ready_for: Sequence[str]
    drop_layers: int | None


class ExportOptions(SearchLimits, PackagingOptions, total=False):
    """What is exported and for whom.

    `others` are runs whose adapters are put beside the first one's (with `to="onnx"`);
    `for_this_machine` tries all formats and takes the best within the limits.
    """

    others: Sequence[str]
    for_this_machine: bool


@overload
def export(
    run: str,
    to: str | None = None,
    quant: str | None = None,
    out: Source | None = None,
    changes: Iterable[str] = (),
    **options: Unpack[PackagingOptions],
) -> ExportResult: ...
@overload
def export(
    run: str,
    *,
    for_this_machine: Literal[True],
    out: Source | None = None,
    changes: Iterable[str] = (),
    drop_layers: int | None = None,
    **limits: Unpack[SearchLimits],
) -> SearchResult: ...
@overload
def export(
    run: str,
    to: Literal["onnx"],
    quant: str | None = None,
    out: Source | None = None,
    changes: Iterable[str] = (),
    *,
    others: Sequence[str],
) -> MultiAdapterExport: ...
@overload
def export(
    run: str,
    to: str | None = None,
    quant: str | None = None,
    out: Source | None = None,
    changes: Iterable[str] = (),
    **options: Unpack[ExportOptions],
) -> ExportResult | SearchResult | MultiAdapterExport: ...
def export(
    run: str,
    to: str | None = None,
    quant: str | None = None,
    out: Source | None = None,
    changes: Iterable[str] = (),
    **options: Unpack[ExportOptions],
) -> ExportResult | SearchResult | MultiAdapterExport:
    """Write a run in the format that will be served, and ask it there before it may ship.

    `changes` are of the run's recipe; see `ExportOptions` for the others. Raises CannotExport,
    AlreadyThere, BadRecipe before anything is written.
    """
    folder = Path(out) if out else None
    ready_for, drop_layers = options.get("ready_for") or (), options.get("drop_layers")
    others, search = options.get("others") or (), bool(options.get("for_this_machine"))
    limits = {
        name: options.get(name)
        for name in SearchLimits.__annotations__
        if options.get(name) is not None
    }
    if others:
        _check_multi_adapter(to, bool(ready_for or search or limits or drop_layers is not None))
        from burnish.export.multi_adapter import export_multi_adapter

        return export_multi_adapter(
            [find_run(name) for name in (run, *others)], quant or "auto", folder, changes
        )
    if search or limits:
        _check_search(search, bool(to or quant or ready_for))
    found = find_run(run)
    wanted: dict[str, Any] = {
        "export.to": to,
        "export.quant": quant,
        "export.ready_for": f"[{', '.join(ready_for)}]" if ready_for else None,
        "export.drop_layers": drop_layers,
        **{f"export.fit.{name}": limit for name, limit in limits.items()},
    }
    recipe = changed_recipe(found, wanted, changes)
    if search:
        from burnish.export.search.run import search_formats

        return search_formats(found, recipe, folder)
    from burnish.export.run import export as export_run

    return export_run(found, recipe, folder)


def _check_multi_adapter(to: str | None, has_more: bool) -> None:
    if to != "onnx" or has_more:
        raise BadRecipe(
            "--with goes with --to onnx, and without --ready-for, --drop-layers and a search.",
            "burnish export RUN --to onnx --with RUN --out FOLDER; for llama.cpp: burnish olive "
            "generate-adapter.",
        )


def _check_search(search: bool, names_format: bool) -> None:
    if not search:
        raise BadRecipe("Limits are for a search.", "Add --for-this-machine.")
    if names_format:
        raise BadRecipe(
            "--for-this-machine finds the format itself.",
            "Leave --to, --quant and --ready-for out, or name formats: "
            "--set 'export.fit.formats=[gguf:q8_0]'",
        )
