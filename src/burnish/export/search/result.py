"""The result of a search for an export format."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.core.stats import paired_test
from burnish.engines.registry import EXTERNAL_ENGINES
from burnish.export.formats.registry import FORMATS
from burnish.export.run import ExportResult
from burnish.export.search.limits import LIMITS
from burnish.export.search.successive_halving import (
    SearchRules,
)
from burnish.export.search.trial import CandidateTrial


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The search's result: the pick and its gate result, or why there is none."""

    folder: Path
    trials: Sequence[CandidateTrial]
    rules: SearchRules
    metric: str
    pick: CandidateTrial | None
    exported: ExportResult | None
    against: Sequence[str]

    @property
    def exit_code(self) -> int:
        """0 if there is a pick, which has passed the gate; else 1."""
        return 0 if self.pick else 1

    @property
    def serve_command(self) -> str | None:
        """The command that serves the pick as it was measured; None without a pick."""
        if self.pick is None:
            return None
        line = f"burnish serve {shlex.quote(str(self.folder))}"
        served = self.serve_settings
        if served["torch_threads"]:
            return f"OMP_NUM_THREADS={served['torch_threads']} {line}"
        sets = [f"--set serve.{field}={value}" for field, value in served["serve"].items()]
        return " ".join([line, *sets])

    @property
    def serve_settings(self) -> dict[str, Any]:
        """How the pick was measured: fields of `serve`, and torch's threads for a local engine."""
        assert self.pick is not None
        candidate = self.pick.candidate
        if FORMATS[candidate.to].kind not in EXTERNAL_ENGINES:
            return {"serve": {}, "torch_threads": candidate.threads}
        fields: dict[str, Any] = {"engine_threads": candidate.threads}
        fields |= {"engine_cache": candidate.cache} if candidate.cache != "f16" else {}
        fields |= {"engine_context": candidate.context} if candidate.context else {}
        return {"serve": fields, "torch_threads": 0}

    def as_dict(self) -> dict[str, Any]:
        """Return the content of `search.json`, which `--json` prints."""
        return {
            "folder": str(self.folder),
            "metric": self.metric,
            "pick": str(self.pick.candidate) if self.pick else None,
            "serve": self.serve_command,
            "served": self.serve_settings if self.pick else None,
            "shippable": self.pick is not None,
            "against": list(self.against),
            "limits": {name: getattr(self.rules.fit, name) for name in LIMITS},
            "best": self.rules.fit.best,
            "candidates": [self.trial_facts(trial) for trial in self.trials],
            "parity": self.exported.parity.as_dict() if self.exported else None,
        }

    def trial_facts(self, trial: CandidateTrial) -> dict[str, Any]:
        """Return the measurements of one candidate; the gain is over the trained model."""
        candidate, n = trial.candidate, len(trial.scores)
        trained_scores, clusters = self.rules.trained_scores[:n], self.rules.clusters[:n]
        gain = paired_test(trial.scores, trained_scores, clusters).gain if n else None
        return {
            "format": candidate.to,
            "quant": candidate.quant,
            "threads": candidate.threads,
            "cache": candidate.cache,
            "context": candidate.context or None,
            "questions": n,
            "score": sum(trial.scores) / n if n else None,
            "gain": [gain.value, gain.low, gain.high] if gain else None,
            "latency_p50_s": trial.latency(0.5) if trial.seconds else None,
            "latency_p95_s": trial.latency(0.95) if trial.seconds else None,
            "memory_bytes": trial.memory_bytes,
            "disk_bytes": trial.disk_bytes,
            "start_up_s": trial.start_up_s,
            "dropped": trial.dropped.kind if trial.dropped else None,
            "why": trial.dropped.why if trial.dropped else None,
        }
