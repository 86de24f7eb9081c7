"""The contents of `export.html`, a search's report."""

import platform
from typing import TYPE_CHECKING

import psutil

from burnish.core.records import Interval
from burnish.export.search.limits import LIMITS, format_amount
from burnish.report.export_search import ExportSearchContents, FormatLine

if TYPE_CHECKING:
    from burnish.export.search.result import SearchResult

_BEST = {
    "latency": "lowest p95 latency",
    "memory": "least memory",
    "disk": "fewest bytes on disk",
    "score": "best score",
}


def search_contents(result: "SearchResult") -> ExportSearchContents:
    """Return the contents of a search's page."""
    fit, pick = result.rules.fit, result.pick
    limits = {
        limit.label: f"at most {format_amount(allowed, limit.unit)}"
        for name, limit in LIMITS.items()
        if (allowed := getattr(fit, name)) is not None
    }
    requirements = (
        "; ".join(f"{words} {text}" for words, text in limits.items()) or "no limits were set"
    )
    if pick:
        headline = f"{pick.candidate} is the pick"
        paragraph = (
            f"Of {len(result.trials)} candidates it has the {_BEST[fit.best]} among those that "
            f"keep the limits ({requirements}) and passed the parity gate."
        )
    else:
        headline = "No candidate keeps the limits and answers like the trained model"
        paragraph = f"{len(result.trials)} candidates were tried; {requirements}."
    return ExportSearchContents(
        title="Export for this machine",
        headline=headline,
        paragraph=paragraph,
        metric=result.metric,
        lines=[_format_line(result, index) for index in range(len(result.trials))],
        reasons=result.against,
        limit_s=fit.latency_p95,
        facts={
            "machine": f"{platform.system()} {platform.machine()}, {psutil.cpu_count()} CPUs",
            "best is": _BEST[fit.best],
            "questions at most": str(len(result.rules.trained_scores)),
            **limits,
        },
        reproduce=" ".join(
            ["burnish export RUN --for-this-machine"]
            + [
                f"--set export.fit.{name}={value:g}"
                for name in LIMITS
                if (value := getattr(fit, name)) is not None
            ]
        ),
    )


def _format_line(result: "SearchResult", index: int) -> FormatLine:
    trial = result.trials[index]
    facts = result.trial_facts(trial)
    gain = facts["gain"]
    outcome = f"{trial.dropped.kind}: {trial.dropped.why}" if trial.dropped else ""
    return FormatLine(
        name=str(trial.candidate),
        questions=len(trial.scores),
        score=facts["score"],
        gain=Interval(gain[0], gain[1], gain[2], len(trial.scores)) if gain else None,
        latency_p50_s=trial.latency(0.5),
        latency_p95_s=trial.latency(0.95),
        memory_bytes=trial.memory_bytes,
        disk_bytes=trial.disk_bytes,
        start_up_s=trial.start_up_s,
        fate=outcome,
        picked=trial is result.pick,
    )
