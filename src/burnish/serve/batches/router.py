"""Routes of /batches."""

from typing import Annotated

from fastapi import APIRouter, Depends

from burnish.serve.batches.protocol import BatchObject, CreateBatch, batch_object
from burnish.serve.batches.service import Batches
from burnish.serve.protocol import ListPage, PageLimit
from burnish.serve.store.dependencies import CurrentWorkspace

router = APIRouter(prefix="/batches")


async def get_batches(workspace: CurrentWorkspace) -> Batches:
    """Return the batches of the workspace."""
    return Batches(workspace)


CurrentBatches = Annotated[Batches, Depends(get_batches)]


@router.post("", summary="Create a batch from a file of requests")
def create_batch(request: CreateBatch, batches: CurrentBatches) -> BatchObject:
    """Create a batch; its lines are answered in the background."""
    return batch_object(batches.create(request))


@router.get("", summary="List the batches, newest first")
def list_batches(
    workspace: CurrentWorkspace, after: str | None = None, limit: PageLimit = 20
) -> ListPage[BatchObject]:
    """List batches."""
    return ListPage[BatchObject].of(
        *workspace.objects.page("batch", None, after, limit), batch_object
    )


@router.get("/{name}", summary="Describe one batch")
def get_batch(name: str, workspace: CurrentWorkspace) -> BatchObject:
    """Describe a batch."""
    return batch_object(workspace.objects.find("batch", name))


@router.post("/{name}/cancel", summary="Send no more lines of a batch")
def cancel_batch(name: str, batches: CurrentBatches) -> BatchObject:
    """Cancel a batch; answers that exist stay."""
    return batch_object(batches.cancel(name))
