"""An engine whose child process reports the next token's log-probabilities
(`engines.external.server`)."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from transformers import AutoTokenizer

from burnish.core.records import TokenLogprob
from burnish.engines.external.base import LaunchOptions, LogprobEngine
from burnish.engines.external.process import EngineProcess
from burnish.engines.local.decoding import GenerationRequest
from burnish.models.artifact import Artifact


@dataclass(frozen=True, slots=True)
class _StepwiseLogprobs:
    """Log-probabilities of the next token of an answer, requested where needed."""

    child: EngineProcess
    ids: Sequence[int]
    wanted: Sequence[int]
    cache: dict[tuple[int, ...], dict[int, float]]
    extra_fields: Mapping[str, Any]

    def top_logprobs(self, behind: tuple[int, ...]) -> tuple[dict[int, float], float]:
        """Return the tokens of the choices; no other token can be chosen."""
        if behind not in self.cache:
            body = {"ids": list(self.ids), "behind": list(behind), "wanted": list(self.wanted)}
            logs = self.child.ask("/next", {**body, **self.extra_fields})
            self.cache[behind] = dict(zip(self.wanted, logs, strict=True))
        return self.cache[behind], float("-inf")

    def all_logprobs(self, behind: tuple[int, ...]) -> dict[int, float]:
        """Return the same."""
        return self.top_logprobs(behind)[0]


class StepwiseEngine(LogprobEngine):
    """Answers with an exported folder, token by token. `close` ends its process."""

    #: Glob pattern of the weight files.
    weights_pattern: ClassVar[str]
    #: Additional fields of each request to the child.
    extra_fields: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, artifact: Artifact, launch_options: LaunchOptions) -> None:
        """Set what the folder tells; subclasses start the child."""
        name = str(artifact.lineage.get("run", artifact.path.name))
        tokenizer = AutoTokenizer.from_pretrained(artifact.path, local_files_only=True)
        super().__init__(name, tokenizer, artifact.system, launch_options)
        self.folder: Path = artifact.path
        self.vocabulary = len(tokenizer)

    @property
    def memory_bytes(self) -> int:
        """The size of the weights in bytes."""
        return sum(file.stat().st_size for file in self.folder.glob(self.weights_pattern))

    def logprob_table(
        self, ids: Sequence[int], wanted: Sequence[int], ahead: int = 1, owner: str = ""
    ) -> _StepwiseLogprobs:
        """Return a table of the wanted tokens only."""
        fields = {**self.extra_fields, "owner": owner}
        return _StepwiseLogprobs(self.child, ids, wanted, {}, fields)

    def generate(self, request: GenerationRequest) -> Generator[None]:
        """Generate a free answer, token by token."""
        prompt = request.prompt
        body = {
            "ids": list(request.ids),
            "most": prompt.max_new_tokens,
            "ends": sorted(self.ends),
            "temperature": prompt.temperature,
            "top_p": prompt.top_p,
            "seed": prompt.seed,
            "top": prompt.top_logprobs or 0,
            "owner": request.owner,
            **self.extra_fields,
        }
        with closing(self.child.stream("/complete", body)) as events:
            for event in events:
                if event.get("stop"):
                    request.finish = request.finish or ("stop" if event["ended"] else "length")
                else:
                    if prompt.top_logprobs is not None:
                        request.logprobs.append(self._logprob(event))
                    request.append_token(event["token"])
                yield

    def _logprob(self, event: Mapping[str, Any]) -> TokenLogprob:
        top = tuple((self._decode_token(other), log) for other, log in event["top"])
        return TokenLogprob(self._decode_token(event["token"]), event["logprob"], top)

    def _decode_token(self, token: int) -> str:
        return str(self.tokenizer.decode([token]))
