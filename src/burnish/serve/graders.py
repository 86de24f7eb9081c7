"""Graders: a score for what a model has said (`client.fine_tuning.alpha.graders`)."""

import json
import math
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from rapidfuzz import fuzz
from rouge_score import rouge_scorer
from sacrebleu import sentence_bleu

from burnish.serve.errors import Refused
from burnish.serve.formula import BadFormula, compute, names_in
from burnish.serve.grader_wire import (
    Grader,
    Multi,
    RunGrader,
    ScoreModel,
    Single,
    StringCheck,
    TextSimilarity,
    ValidateGrader,
)
from burnish.serve.house import House
from burnish.serve.inside import ask

_TEMPLATE = re.compile(r"\{\{\s*(item|sample)((?:\.\w+)*)\s*\}\}")
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
        return _TEMPLATE.sub(lambda found: self._found(found[1], found[2].split(".")[1:]), text)

    def _found(self, root: str, path: Sequence[str]) -> str:
        place: Any = self.item if root == "item" else self._sample()
        for name in path:
            inside = isinstance(place, list) and name.isascii() and name.isdigit()
            try:
                place = place[int(name)] if inside else place[name]
            except (LookupError, TypeError) as error:
                said = f"{{{{{'.'.join((root, *path))}}}}} is not there"
                raise Ungraded("invalid_variable_error", said) from error
        return place if isinstance(place, str) else json.dumps(place, ensure_ascii=False)

    def _sample(self) -> dict[str, Any]:
        sample: dict[str, Any] = {"output_text": self.sample}
        try:
            sample["output_json"] = json.loads(self.sample)
        except (ValueError, RecursionError):
            return sample
        return sample


async def _check(grading: Grading, grader: StringCheck) -> float:
    given, wanted = grading.filled(grader.input), grading.filled(grader.reference)
    return float(_CHECKS[grader.operation](given, wanted))


async def _similar(grading: Grading, grader: TextSimilarity) -> float:
    given, wanted = grading.filled(grader.input), grading.filled(grader.reference)
    if grader.evaluation_metric != "cosine":
        return await run_in_threadpool(_METRICS[grader.evaluation_metric], given, wanted)
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


_GRADERS: Mapping[type, Callable[[Grading, Any], Awaitable[float]]] = {
    StringCheck: _check,
    TextSimilarity: _similar,
    ScoreModel: _score,
}
_CHECKS: Mapping[str, Callable[[str, str], bool]] = {
    "eq": lambda given, wanted: given == wanted,
    "ne": lambda given, wanted: given != wanted,
    "like": lambda given, wanted: wanted in given,
    "ilike": lambda given, wanted: wanted.casefold() in given.casefold(),
}


def gleu(given: str, wanted: str) -> float:
    """Google's sentence BLEU: the lesser of precision and recall over 1- to 4-grams of words
    (Wu et al. 2016, arXiv:1609.08144)."""
    ours, theirs = (
        Counter(tuple(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1))
        for words in (given.split(), wanted.split())
    )
    longest = max(sum(ours.values()), sum(theirs.values()))
    return sum((ours & theirs).values()) / longest if longest else 0.0


def _rouge(name: str) -> Callable[[str, str], float]:
    def score(given: str, wanted: str) -> float:
        return float(rouge_scorer.RougeScorer([name]).score(wanted, given)[name].fmeasure)

    return score


_METRICS: Mapping[str, Callable[[str, str], float]] = {
    "fuzzy_match": lambda given, wanted: fuzz.ratio(given, wanted) / 100,
    "bleu": lambda given, wanted: sentence_bleu(given, [wanted]).score / 100,
    "gleu": gleu,
    **{f"rouge_{n}": _rouge(f"rouge{n}") for n in range(1, 6)},
    "rouge_l": _rouge("rougeL"),
}


def grader_routes(house: House) -> APIRouter:
    """Run a grader on a sample, or only look whether it could be run."""
    router = APIRouter(prefix="/fine_tuning/alpha/graders")

    @router.post("/run", summary="The score of a sample")
    async def run(asked: RunGrader, http: Request) -> dict[str, Any]:
        _refuse_bad_formula(asked.grader)
        begun = time.perf_counter()
        grading = Grading(house, asked.model_sample, asked.item or {})
        reward, problem = 0.0, None
        try:
            reward = await grading.grade(asked.grader)
        except Ungraded as error:
            problem = error
        return _result(asked.grader, grading, reward, problem, time.perf_counter() - begun)

    @router.post("/validate", summary="Whether a grader can be run")
    def validate(asked: ValidateGrader) -> dict[str, Any]:
        _refuse_bad_formula(asked.grader)
        return {"grader": asked.grader.model_dump(exclude_none=True)}

    return router


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
        errors |= {problem.error: True, f"{problem.error}_details": problem.details}
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
