"""Routes of /fine_tuning/alpha/graders."""

from fastapi import APIRouter

from burnish.serve.graders.protocol import (
    GraderRunObject,
    RunGrader,
    ValidatedGrader,
    ValidateGrader,
)
from burnish.serve.graders.service import check_grader, check_sources, run_grader
from burnish.serve.inference.dependencies import CurrentInference

router = APIRouter(prefix="/fine_tuning/alpha/graders")


@router.post("/run", summary="Score a sample with a grader")
async def run(request: RunGrader, inference: CurrentInference) -> GraderRunObject:
    """Score one sample; a failure of the grader is part of the response."""
    check_grader(inference, request.grader)
    return await run_grader(inference, request)


@router.post("/validate", summary="Check that a grader can run", response_model_exclude_none=True)
async def validate(request: ValidateGrader, inference: CurrentInference) -> ValidatedGrader:
    """Check a grader: its formula, and in the sandbox that its Python source loads."""
    check_grader(inference, request.grader)
    await check_sources(inference, request.grader)
    return ValidatedGrader(grader=request.grader)
