"""The workspace of the application, for FastAPI's `Depends`."""

from typing import Annotated

from fastapi import Depends, Request

from burnish.serve.store.workspace import Workspace


async def get_workspace(request: Request) -> Workspace:
    """Return the workspace that `create_app` put into the application's state."""
    workspace: Workspace = request.app.state.workspace
    return workspace


CurrentWorkspace = Annotated[Workspace, Depends(get_workspace)]
