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
from burnish.evaluate.graders import CHECKS, SIMILARITIES, TemplateError, fill, sample_of
from burnish.evaluate.sandbox.sandbox import GraderFailed, Sandbox, SandboxUnavailable
from burnish.serve.errors import RequestError
from burnish.serve.graders.protocol import (
    Grader,
    MultiGrader,
    PythonGrader,
    RunGrader,
    ScoreModelGrader,
    SingleGrader,
    StringCheckGrader,
    TextSimilarityGrader,
    ValidateGrader,
    reject_code,
    single_graders,
)
from burnish.serve.inference.local_client import call_endpoint
from burnish.serve.inference.service import InferenceService

#: Letters: some measures need memory for every pair of words of the two texts.
_MAX_COMPARED_LENGTH = 20_000
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


class GradingError(Exception):
    """No score: `error` is one of the hosted API's names, `details` are for people."""

    def __init__(self, error: str, details: str) -> None:
        super().__init__(error, details)
        self.error, self.details = error, details


@dataclass
class GradingRun:
    """One sample that is being graded. `tokens` counts those of models, by their names."""

    service: InferenceService
    sample: str
    item: Mapping[str, Any]
    scores: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    async def grade(self, grader: Any) -> float:
        """The score. Raises Ungraded."""
        if not isinstance(grader, MultiGrader):
            return await self._grade_single(grader)
        for name, inner in grader.graders_by_name.items():
            self.scores[name] = await self._grade_single(inner)
        try:
            return compute(grader.calculate_output, self.scores)
        except BadFormula as error:
            raise GradingError("formula_parse_error", str(error)) from error

    async def _grade_single(self, grader: SingleGrader) -> float:
        return await _GRADERS[type(grader)](self, grader)

    def fill_template(self, text: str) -> str:
        """A template with what it names put in. Raises Ungraded for what isn't there."""
        try:
            return fill(text, self.item, self.sample)
        except TemplateError as error:
            raise GradingError("invalid_variable_error", str(error)) from error


async def _grade_string_check(grading: GradingRun, grader: StringCheckGrader) -> float:
    given, wanted = grading.fill_template(grader.input), grading.fill_template(grader.reference)
    return float(CHECKS[grader.operation](given, wanted))


async def _grade_similarity(grading: GradingRun, grader: TextSimilarityGrader) -> float:
    given, wanted = grading.fill_template(grader.input), grading.fill_template(grader.reference)
    if max(len(given), len(wanted)) > _MAX_COMPARED_LENGTH:
        raise GradingError(
            "other_error", f"texts of over {_MAX_COMPARED_LENGTH} letters are not compared"
        )
    if grader.evaluation_metric != "cosine":
        return await run_in_threadpool(SIMILARITIES[grader.evaluation_metric], given, wanted)
    names = grading.service.embedders.names()
    if not names:
        raise GradingError("other_error", "`cosine` needs an embedding model: burnish pull one")
    body = {"model": names[0], "input": [given or " ", wanted or " "]}
    status, answer = await call_endpoint(grading.service, "/v1/embeddings", body)
    if status != 200:
        raise GradingError("other_error", answer["error"]["message"])
    one, other = (item["embedding"] for item in answer["data"])
    return max(0.0, float(sum(a * b for a, b in zip(one, other, strict=True))))


async def _grade_with_model(grading: GradingRun, grader: ScoreModelGrader) -> float:
    low, high = grader.range or (0.0, 1.0)
    how = grader.sampling_params.model_dump(exclude_none=True) if grader.sampling_params else {}
    if longest := how.pop("max_completions_tokens", None):
        how["max_tokens"] = longest
    number = {"type": "number", "minimum": low, "maximum": high}
    schema = {"type": "object", "properties": {"result": number}, "required": ["result"],
              "additionalProperties": False}  # fmt: skip
    messages = [{"role": m.role, "content": grading.fill_template(m.content)} for m in grader.input]
    shape = {"type": "json_schema", "json_schema": {"name": "score", "schema": schema}}
    body = {"model": grader.model, "messages": messages, "response_format": shape,
            "temperature": 0.0, "max_tokens": 64, **how}  # fmt: skip
    status, answer = await call_endpoint(grading.service, "/v1/chat/completions", body)
    if status != 200:
        raise GradingError("model_grader_server_error", answer["error"]["message"])
    used = answer["usage"]["total_tokens"]
    grading.tokens[grader.model] = grading.tokens.get(grader.model, 0) + used
    try:
        return float(json.loads(answer["choices"][0]["message"]["content"])["result"])
    except (ValueError, LookupError, TypeError) as error:
        raise GradingError("model_grader_parse_error", "the model's answer was cut") from error


async def _grade_with_python(grading: GradingRun, grader: PythonGrader) -> float:
    """In a sandbox of its own, which is gone afterwards; one at a time, as memory is small."""

    def run() -> float:
        with Sandbox(grader.source) as sandbox:
            return sandbox.grade(sample_of(grading.sample), grading.item)

    try:
        async with grading.service.sandbox_lock:
            return await run_in_threadpool(run)
    except GraderFailed as error:
        raise GradingError("python_grader_runtime_error", str(error)) from error
    except SandboxUnavailable as error:
        raise GradingError("python_grader_server_error", error.what) from error


_GRADERS: Mapping[type, Callable[[GradingRun, Any], Awaitable[float]]] = {
    StringCheckGrader: _grade_string_check,
    TextSimilarityGrader: _grade_similarity,
    ScoreModelGrader: _grade_with_model,
    PythonGrader: _grade_with_python,
}


def grader_routes(service: InferenceService) -> APIRouter:
    """Run a grader on a sample, or only look whether it could be run."""
    router = APIRouter(prefix="/fine_tuning/alpha/graders")

    @router.post("/run", summary="The score of a sample")
    async def run_grader(request: RunGrader, http: Request) -> dict[str, Any]:
        await check_grader(service, request.grader)
        begun = time.perf_counter()
        grading = GradingRun(service, request.model_sample, request.item or {})
        reward, problem = 0.0, None
        try:
            reward = await grading.grade(request.grader)
        except GradingError as error:
            problem = error
        return _result_body(request.grader, grading, reward, problem, time.perf_counter() - begun)

    @router.post("/validate", summary="Whether a grader can be run")
    async def validate_grader(request: ValidateGrader) -> dict[str, Any]:
        await check_grader(service, request.grader)
        await check_sources(service, request.grader)
        return {"grader": request.grader.model_dump(exclude_none=True)}

    return router


async def check_sources(service: InferenceService, grader: Grader, param: str = "grader") -> None:
    """Load what is Python, in the sandbox. Raises Refused for a source that doesn't load."""

    def load(source: str) -> None:
        with Sandbox(source) as sandbox:
            sandbox.load()

    for one in single_graders(grader):
        if isinstance(one, PythonGrader):
            try:
                async with service.sandbox_lock:
                    await run_in_threadpool(load, one.source)
            except GraderFailed as error:
                said = f"The source of `{one.name}` does not load: {error}"
                raise RequestError(said, param, "invalid_grader") from error


async def check_grader(service: InferenceService, grader: Grader) -> None:
    """Raises Refused for a grader that may not run here, or whose formula cannot be computed."""
    reject_code(grader, service.settings.python_graders)
    _check_formula(grader)


def _check_formula(grader: Grader) -> None:
    if not isinstance(grader, MultiGrader):
        return
    try:
        unknown = names_in(grader.calculate_output) - set(grader.graders_by_name)
    except BadFormula as error:
        raise RequestError(
            f"{error}.".capitalize(), "grader.calculate_output", "bad_formula"
        ) from error
    if unknown:
        said = f"The formula names {', '.join(sorted(unknown))}, which is no grader of it."
        raise RequestError(said, "grader.calculate_output", "bad_formula")


def _result_body(
    grader: Grader, grading: GradingRun, reward: float, problem: GradingError | None, seconds: float
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
