"""Graders: a score for an answer of a model (`client.fine_tuning.alpha.graders`)."""

import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi.concurrency import run_in_threadpool

from burnish.evaluate.grader_formula import BadFormula, compute, names_in
from burnish.evaluate.graders import CHECKS, SIMILARITIES, TemplateError, fill, sample_of
from burnish.evaluate.sandbox.sandbox import GraderFailed, Sandbox, SandboxUnavailable
from burnish.serve.errors import RequestError
from burnish.serve.graders.protocol import (
    Grader,
    GraderErrors,
    GraderMetadata,
    GraderRunObject,
    MultiGrader,
    PythonGrader,
    RunGrader,
    ScoreModelGrader,
    SingleGrader,
    StringCheckGrader,
    TextSimilarityGrader,
    reject_code,
    single_graders,
)
from burnish.serve.inference.local_client import call_endpoint
from burnish.serve.inference.service import InferenceService

#: Characters: some metrics need memory for every pair of words of the two texts.
_MAX_COMPARED_LENGTH = 20_000


class GradingError(Exception):
    """A sample cannot be scored. `error` is the hosted API's name; `details` explains it."""

    def __init__(self, error: str, details: str) -> None:
        super().__init__(error, details)
        self.error, self.details = error, details


@dataclass
class GradingRun:
    """The grading of one sample. `tokens` counts those that score models used, by model."""

    inference: InferenceService
    sample: str
    item: Mapping[str, Any]
    scores: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    async def grade(self, grader: Any) -> float:
        """Compute the score. Raises GradingError."""
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
        """Fill in a template. Raises GradingError for a variable that does not exist."""
        try:
            return fill(text, self.item, self.sample)
        except TemplateError as error:
            raise GradingError("invalid_variable_error", str(error)) from error


async def _grade_string_check(grading: GradingRun, grader: StringCheckGrader) -> float:
    text, reference = grading.fill_template(grader.input), grading.fill_template(grader.reference)
    return float(CHECKS[grader.operation](text, reference))


async def _grade_similarity(grading: GradingRun, grader: TextSimilarityGrader) -> float:
    text, reference = grading.fill_template(grader.input), grading.fill_template(grader.reference)
    if max(len(text), len(reference)) > _MAX_COMPARED_LENGTH:
        raise GradingError(
            "other_error", f"texts of over {_MAX_COMPARED_LENGTH} characters are not compared"
        )
    if grader.evaluation_metric != "cosine":
        return await run_in_threadpool(SIMILARITIES[grader.evaluation_metric], text, reference)
    names = grading.inference.embedders.names()
    if not names:
        raise GradingError("other_error", "`cosine` needs an embedding model: burnish pull one")
    body = {"model": names[0], "input": [text or " ", reference or " "]}
    status, answer = await call_endpoint(grading.inference, "/v1/embeddings", body)
    if status != 200:
        raise GradingError("other_error", answer["error"]["message"])
    first, second = (item["embedding"] for item in answer["data"])
    return max(0.0, float(sum(a * b for a, b in zip(first, second, strict=True))))


async def _grade_with_model(grading: GradingRun, grader: ScoreModelGrader) -> float:
    low, high = grader.range or (0.0, 1.0)
    params = grader.sampling_params
    sampling = params.model_dump(exclude_none=True) if params else {}
    if limit := sampling.pop("max_completions_tokens", None):
        sampling["max_tokens"] = limit
    number = {"type": "number", "minimum": low, "maximum": high}
    schema = {"type": "object", "properties": {"result": number}, "required": ["result"],
              "additionalProperties": False}  # fmt: skip
    messages = [{"role": m.role, "content": grading.fill_template(m.content)} for m in grader.input]
    response_format = {"type": "json_schema", "json_schema": {"name": "score", "schema": schema}}
    body = {"model": grader.model, "messages": messages, "response_format": response_format,
            "temperature": 0.0, "max_tokens": 64, **sampling}  # fmt: skip
    status, answer = await call_endpoint(grading.inference, "/v1/chat/completions", body)
    if status != 200:
        raise GradingError("model_grader_server_error", answer["error"]["message"])
    used = answer["usage"]["total_tokens"]
    grading.tokens[grader.model] = grading.tokens.get(grader.model, 0) + used
    try:
        return float(json.loads(answer["choices"][0]["message"]["content"])["result"])
    except (ValueError, LookupError, TypeError) as error:
        raise GradingError("model_grader_parse_error", "the model's answer was cut off") from error


async def _grade_with_python(grading: GradingRun, grader: PythonGrader) -> float:
    """Run the source in a new sandbox; one at a time, to bound memory."""

    def run() -> float:
        with Sandbox(grader.source) as sandbox:
            return sandbox.grade(sample_of(grading.sample), grading.item)

    try:
        async with grading.inference.sandbox_lock:
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


async def run_grader(inference: InferenceService, request: RunGrader) -> GraderRunObject:
    """Score a sample; one that cannot be scored gets 0 and the reason."""
    start = time.perf_counter()
    grading = GradingRun(inference, request.model_sample, request.item or {})
    reward, failure = 0.0, None
    try:
        reward = await grading.grade(request.grader)
    except GradingError as error:
        failure = error
    assert math.isfinite(reward)
    metadata = GraderMetadata(
        name=request.grader.name,
        type=request.grader.type,
        errors=_grader_errors(failure),
        execution_time=time.perf_counter() - start,
        scores=grading.scores or {request.grader.name: reward},
        token_usage=sum(grading.tokens.values()) or None,
        sampled_model_name=next(iter(grading.tokens), None),
    )
    return GraderRunObject(
        reward=reward,
        sub_rewards=grading.scores,
        model_grader_token_usage_per_model=grading.tokens,
        metadata=metadata,
    )


def _grader_errors(failure: GradingError | None) -> GraderErrors:
    if failure is None:
        return GraderErrors()
    detail = "type" if failure.error == "python_grader_server_error" else "details"
    fields: dict[str, Any] = {failure.error: True, f"{failure.error}_{detail}": failure.details}
    return GraderErrors(**fields)


async def check_sources(inference: InferenceService, grader: Grader, param: str = "grader") -> None:
    """Load Python sources in the sandbox. Raises RequestError for one that does not load."""

    def load(source: str) -> None:
        with Sandbox(source) as sandbox:
            sandbox.load()

    for one in single_graders(grader):
        if isinstance(one, PythonGrader):
            try:
                async with inference.sandbox_lock:
                    await run_in_threadpool(load, one.source)
            except GraderFailed as error:
                message = f"The source of `{one.name}` does not load: {error}"
                raise RequestError(message, param, "invalid_grader") from error


def check_grader(inference: InferenceService, grader: Grader) -> None:
    """Raise RequestError for a grader that may not run here or has an invalid formula."""
    reject_code(grader, inference.settings.python_graders)
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
        message = f"The formula names {', '.join(sorted(unknown))}, which is not among its graders."
        raise RequestError(message, "grader.calculate_output", "bad_formula")
