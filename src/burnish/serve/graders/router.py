"""Graders: a score for what a model has said (`client.fine_tuning.alpha.graders`)."""

import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from burnish.evaluate.grader_formula import BadFormula, compute, names_in
from burnish.evaluate.graders import CHECKS, SIMILARITIES, Unfilled, fill, sample_of
from burnish.evaluate.sandbox.sandbox import Failed, Sandbox, SandboxUnavailable
from burnish.serve.errors import Refused
from burnish.serve.graders.protocol import (
    Grader,
    Multi,
    Python,
    RunGrader,
    ScoreModel,
    Single,
    StringCheck,
    TextSimilarity,
    ValidateGrader,
    refuse_code,
    singles,
)
from burnish.serve.inference.local_client import ask
from burnish.serve.inference.service import House

#: Letters: some measures need memory for every pair of words of the two texts.
_MOST_COMPARED = 20_000
#: The hosted API's names of what can go wrong.
_ERRORS = (
    "formula_parse_error", "sample_parse_error", "truncated_observation_error",
    "unresponsive_reward_error", "invalid_variable_error", "other_error",
    "python_grader_server_error", "python_grader_runtime_error", "model_grader_server_error",
    "model_grader_refusal_error", "model_grader_parse_error",
)  # fmt: skip
_DETAILS = (
    "sample_parse_error_details", "invalid_variable_error_details",
    "python_grader_server_error_type", "python_grader_runtime_error_details",
    "model_grader_server_error_details",
)  # fmt: skip


class Ungraded(Exception):
    """No score: `error` is one of the hosted API's names, `details` are for people."""

    def __init__(self, error: str, details: str) -> None:
        super().__init__(error, details)
        self.error, self.details = error, details


@dataclass
class Grading:
    """One sample that is being graded. `tokens` counts those of models, by their names."""

    house: House
    sample: str
    item: Mapping[str, Any]
    scores: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    async def grade(self, grader: Any) -> float:
        """The score. Raises Ungraded."""
        if not isinstance(grader, Multi):
            return await self._single(grader)
        for name, inner in grader.named.items():
            self.scores[name] = await self._single(inner)
        try:
            return compute(grader.calculate_output, self.scores)
        except BadFormula as error:
            raise Ungraded("formula_parse_error", str(error)) from error

    async def _single(self, grader: Single) -> float:
        return await _GRADERS[type(grader)](self, grader)

    def filled(self, text: str) -> str:
        """A template with what it names put in. Raises Ungraded for what isn't there."""
        try:
            return fill(text, self.item, self.sample)
        except Unfilled as error:
            raise Ungraded("invalid_variable_error", str(error)) from error


async def _check(grading: Grading, grader: StringCheck) -> float:
    given, wanted = grading.filled(grader.input), grading.filled(grader.reference)
    return float(CHECKS[grader.operation](given, wanted))


async def _similar(grading: Grading, grader: TextSimilarity) -> float:
    given, wanted = grading.filled(grader.input), grading.filled(grader.reference)
    if max(len(given), len(wanted)) > _MOST_COMPARED:
        raise Ungraded("other_error", f"texts of over {_MOST_COMPARED} letters are not compared")
    if grader.evaluation_metric != "cosine":
        return await run_in_threadpool(SIMILARITIES[grader.evaluation_metric], given, wanted)
    names = grading.house.embedders.names()
    if not names:
        raise Ungraded("other_error", "`cosine` needs an embedding model: burnish pull one")
    body = {"model": names[0], "input": [given or " ", wanted or " "]}
    status, answer = await ask(grading.house, "/v1/embeddings", body)
    if status != 200:
        raise Ungraded("other_error", answer["error"]["message"])
    one, other = (item["embedding"] for item in answer["data"])
    return max(0.0, float(sum(a * b for a, b in zip(one, other, strict=True))))


async def _score(grading: Grading, grader: ScoreModel) -> float:
    low, high = grader.range or (0.0, 1.0)
    how = grader.sampling_params.model_dump(exclude_none=True) if grader.sampling_params else {}
    if longest := how.pop("max_completions_tokens", None):
        how["max_tokens"] = longest
    number = {"type": "number", "minimum": low, "maximum": high}
    schema = {"type": "object", "properties": {"result": number}, "required": ["result"],
              "additionalProperties": False}  # fmt: skip
    messages = [{"role": m.role, "content": grading.filled(m.content)} for m in grader.input]
    shape = {"type": "json_schema", "json_schema": {"name": "score", "schema": schema}}
    body = {"model": grader.model, "messages": messages, "response_format": shape,
            "temperature": 0.0, "max_tokens": 64, **how}  # fmt: skip
    status, answer = await ask(grading.house, "/v1/chat/completions", body)
    if status != 200:
        raise Ungraded("model_grader_server_error", answer["error"]["message"])
    used = answer["usage"]["total_tokens"]
    grading.tokens[grader.model] = grading.tokens.get(grader.model, 0) + used
    try:
        return float(json.loads(answer["choices"][0]["message"]["content"])["result"])
    except (ValueError, LookupError, TypeError) as error:
        raise Ungraded("model_grader_parse_error", "the model's answer was cut") from error


async def _python(grading: Grading, grader: Python) -> float:
    """In a sandbox of its own, which is gone afterwards; one at a time, as memory is small."""

    def run() -> float:
        with Sandbox(grader.source) as sandbox:
            return sandbox.grade(sample_of(grading.sample), grading.item)

    try:
        async with grading.house.sandbox:
            return await run_in_threadpool(run)
    except Failed as error:
        raise Ungraded("python_grader_runtime_error", str(error)) from error
    except SandboxUnavailable as error:
        raise Ungraded("python_grader_server_error", error.what) from error


_GRADERS: Mapping[type, Callable[[Grading, Any], Awaitable[float]]] = {
    StringCheck: _check,
    TextSimilarity: _similar,
    ScoreModel: _score,
    Python: _python,
}


def grader_routes(house: House) -> APIRouter:
    """Run a grader on a sample, or only look whether it could be run."""
    router = APIRouter(prefix="/fine_tuning/alpha/graders")

    @router.post("/run", summary="The score of a sample")
    async def run(asked: RunGrader, http: Request) -> dict[str, Any]:
        await check_grader(house, asked.grader)
        begun = time.perf_counter()
        grading = Grading(house, asked.model_sample, asked.item or {})
        reward, problem = 0.0, None
        try:
            reward = await grading.grade(asked.grader)
        except Ungraded as error:
            problem = error
        return _result(asked.grader, grading, reward, problem, time.perf_counter() - begun)

    @router.post("/validate", summary="Whether a grader can be run")
    async def validate(asked: ValidateGrader) -> dict[str, Any]:
        await check_grader(house, asked.grader)
        await try_sources(house, asked.grader)
        return {"grader": asked.grader.model_dump(exclude_none=True)}

    return router


async def try_sources(house: House, grader: Grader, param: str = "grader") -> None:
    """Load what is Python, in the sandbox. Raises Refused for a source that doesn't load."""

    def load(source: str) -> None:
        with Sandbox(source) as sandbox:
            sandbox.load()

    for one in singles(grader):
        if isinstance(one, Python):
            try:
                async with house.sandbox:
                    await run_in_threadpool(load, one.source)
            except Failed as error:
                said = f"The source of `{one.name}` does not load: {error}"
                raise Refused(said, param, "invalid_grader") from error


async def check_grader(house: House, grader: Grader) -> None:
    """Raises Refused for a grader that may not run here, or whose formula cannot be computed."""
    refuse_code(grader, house.settings.python_graders)
    _refuse_bad_formula(grader)


def _refuse_bad_formula(grader: Grader) -> None:
    if not isinstance(grader, Multi):
        return
    try:
        unknown = names_in(grader.calculate_output) - set(grader.named)
    except BadFormula as error:
        raise Refused(f"{error}.".capitalize(), "grader.calculate_output", "bad_formula") from error
    if unknown:
        said = f"The formula names {', '.join(sorted(unknown))}, which is no grader of it."
        raise Refused(said, "grader.calculate_output", "bad_formula")


def _result(
    grader: Grader, grading: Grading, reward: float, problem: Ungraded | None, seconds: float
) -> dict[str, Any]:
    """What the hosted API answers; a sample without a score has 0 and says why."""
    errors: dict[str, Any] = {**dict.fromkeys(_ERRORS, False), **dict.fromkeys(_DETAILS)}
    if problem:
        detail = "type" if problem.error == "python_grader_server_error" else "details"
        errors |= {problem.error: True, f"{problem.error}_{detail}": problem.details}
    assert math.isfinite(reward)
    return {
        "reward": reward,
        "sub_rewards": grading.scores,
        "model_grader_token_usage_per_model": grading.tokens,
        "metadata": {
            "name": grader.name,
            "type": grader.type,
            "errors": errors,
            "execution_time": seconds,
            "scores": grading.scores or {grader.name: reward},
            "token_usage": sum(grading.tokens.values()) or None,
            "sampled_model_name": next(iter(grading.tokens), None),
        },
    }
