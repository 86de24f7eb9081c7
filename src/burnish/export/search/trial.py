"""One candidate of the search: a format, quantization and threads, and its measurements.

It is asked over HTTP as by a client, one question after the other; its server is a child process,
so that a crash affects the candidate only.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import psutil

from burnish.core.errors import BadRecipe, BurnishError
from burnish.core.recipe.export import FormatSearch
from burnish.core.records import Prompt
from burnish.core.stats import quantile
from burnish.engines.external.base import LaunchOptions
from burnish.engines.registry import EXTERNAL_ENGINES
from burnish.export.formats.registry import FORMATS, resolve_quant
from burnish.export.parity.clients import ServedAnswer, open_served_model
from burnish.models.artifact import Artifact


@dataclass(frozen=True, slots=True)
class Candidate:
    """What would be shipped, and the number of threads to serve it with."""

    to: str
    quant: str
    threads: int
    cache: str = "f16"
    #: Tokens of context; 0 means as many as the questions need.
    context: int = 0

    @property
    def format_name(self) -> str:
        """The format without its threads: `gguf q4_0`."""
        return f"{self.to} {self.quant}"

    def launch_options(self, room: int) -> LaunchOptions:
        """Return how its server is started; `room` is the context that the questions need, in
        tokens."""
        return LaunchOptions(self.threads, self.context or room, cache=self.cache)

    def __str__(self) -> str:
        text = f"{self.format_name}, {self.threads} thread{'s' if self.threads > 1 else ''}"
        text += f", {self.cache} cache" if self.cache != "f16" else ""
        return f"{text}, context {self.context}" if self.context else text


@dataclass(frozen=True, slots=True)
class DropReason:
    """Why a candidate was dropped: it failed, broke a limit, lost too much, or was beaten."""

    kind: Literal["failed", "limit", "loss", "behind"]
    why: str


@dataclass(eq=False, slots=True)
class CandidateTrial:
    """The measurements of a candidate. `scores` are of the questions asked so far, in order;
    `disk_bytes` is the size of the exported folder."""

    candidate: Candidate
    artifact: Artifact | None = None
    scores: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    memory_bytes: int = 0
    disk_bytes: int = 0
    dropped: DropReason | None = None

    @property
    def start_up_s(self) -> float:
        """Seconds until the server answers: the median of its starts."""
        return quantile(self.starts, 0.5)

    def latency(self, share: float) -> float:
        """Return the latency quantile `share`, in seconds."""
        return quantile(self.seconds, share)

    def ask(self, prompts: Sequence[Prompt], room: int) -> list[ServedAnswer]:
        """Start the server with a context of `room` tokens, ask, and end it.

        The first answer's time is discarded as warm-up. An error drops the candidate; nothing is
        returned then.
        """
        assert self.artifact is not None
        begun = time.perf_counter()
        try:
            served = open_served_model(self.artifact, self.candidate.launch_options(room))
            try:
                self.starts.append(time.perf_counter() - begun)
                replies = [served.ask(prompt) for prompt in prompts]
                self.memory_bytes = max(self.memory_bytes, served.process.memory_bytes())
            finally:
                served.close()
        except BurnishError as error:
            self.dropped = DropReason("failed", error.what)
            return []
        self.seconds += [reply.seconds for reply in replies[1:]]
        return replies


def list_candidates(fit: FormatSearch) -> list[Candidate]:
    """Return every format with every number of threads. Raises BadRecipe for an unknown format."""
    cores = psutil.cpu_count(logical=False) or 1
    threads = fit.threads or tuple(sorted({max(cores // 2, 1), cores}))
    candidates = []
    for name in fit.formats:
        to, _, quant = name.partition(":")
        if to not in FORMATS:
            raise BadRecipe(
                f"`{name}` in export.fit.formats is not a format.",
                f"Write FORMAT:QUANT, such as gguf:q8_0; formats: {', '.join(FORMATS)}.",
            )
        resolved = resolve_quant(to, quant or "auto")
        # Only llama.cpp has a choice; `burnish serve` of a run has the model's own context.
        caches = fit.caches if FORMATS[to].kind == "gguf" else ("f16",)
        contexts = fit.contexts if FORMATS[to].kind in EXTERNAL_ENGINES else ()
        candidates += [
            Candidate(to, resolved, *grid) for grid in product(threads, caches, contexts or (0,))
        ]
    return list(dict.fromkeys(candidates))
