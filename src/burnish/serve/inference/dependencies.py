"""The inference service of the application, for FastAPI's `Depends`."""

from typing import Annotated

from fastapi import Depends, Request

from burnish.serve.inference.service import InferenceService


async def get_inference(request: Request) -> InferenceService:
    """Return the service that `create_app` put into the application's state."""
    service: InferenceService = request.app.state.inference
    return service


CurrentInference = Annotated[InferenceService, Depends(get_inference)]
