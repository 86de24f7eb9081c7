"""Routes of /vector_stores."""

from typing import Annotated

from fastapi import APIRouter, Depends

from burnish.serve.errors import RequestError
from burnish.serve.inference.dependencies import CurrentInference
from burnish.serve.protocol import DeletedObject, ListPage, PageLimit
from burnish.serve.store.dependencies import CurrentWorkspace
from burnish.serve.store.pagination import Order
from burnish.serve.store.schema import StoredObject
from burnish.serve.vector_stores.protocol import (
    AttachFile,
    AttachFiles,
    CreateVectorStore,
    FileBatchObject,
    FileContentPage,
    SearchResultsPage,
    SearchVectorStore,
    UpdateFile,
    UpdateVectorStore,
    VectorStoreFileObject,
    VectorStoreObject,
    file_batch_object,
    vector_store_file_object,
    vector_store_object,
)
from burnish.serve.vector_stores.service import BATCH, FILE, STORE, VectorStores

router = APIRouter(prefix="/vector_stores")


async def get_vector_stores(
    workspace: CurrentWorkspace, inference: CurrentInference
) -> VectorStores:
    """Return the vector stores of the workspace."""
    return VectorStores(workspace, inference.embedders)


CurrentStores = Annotated[VectorStores, Depends(get_vector_stores)]


def _describe(stores: VectorStores, store: StoredObject) -> VectorStoreObject:
    files = stores.workspace.objects.all(FILE, store.id)
    return vector_store_object(store, files, stores.index_bytes(store.id))


def _describe_batch(stores: VectorStores, batch: StoredObject) -> FileBatchObject:
    return file_batch_object(batch, stores.files_in_batch(batch))


@router.post("", summary="Create a vector store")
def create_vector_store(request: CreateVectorStore, stores: CurrentStores) -> VectorStoreObject:
    """Create a vector store; its files are indexed in the background."""
    return _describe(stores, stores.create(request))


@router.get("", summary="List the vector stores, newest first")
def list_vector_stores(
    stores: CurrentStores,
    after: str | None = None,
    limit: PageLimit = 20,
    order: Order = "desc",
) -> ListPage[VectorStoreObject]:
    """List vector stores."""
    rows, has_more = stores.workspace.objects.page(STORE, None, after, limit, order)
    return ListPage[VectorStoreObject].of(rows, has_more, lambda store: _describe(stores, store))


@router.get("/{name}", summary="Describe one vector store")
def get_vector_store(name: str, stores: CurrentStores) -> VectorStoreObject:
    """Describe a vector store."""
    return _describe(stores, stores.workspace.objects.find(STORE, name))


@router.post("/{name}", summary="Change the name or the metadata of a vector store")
def update_vector_store(
    name: str, request: UpdateVectorStore, stores: CurrentStores
) -> VectorStoreObject:
    """Change the name or the metadata of a vector store."""
    return _describe(stores, stores.update(name, request))


@router.delete("/{name}", summary="Delete a vector store; its files stay")
def delete_vector_store(name: str, stores: CurrentStores) -> DeletedObject:
    """Delete a vector store."""
    stores.delete(name)
    return DeletedObject(id=name, object="vector_store.deleted")


@router.post("/{name}/search", summary="Search for the passages that match best")
def search_vector_store(
    name: str, request: SearchVectorStore, stores: CurrentStores
) -> SearchResultsPage:
    """Search a vector store by meaning and by words."""
    hits = stores.search(stores.workspace.objects.find(STORE, name), request)
    stores.touch(name)
    return SearchResultsPage(
        search_query=list(request.queries), data=[hit.describe() for hit in hits]
    )


@router.post("/{name}/files", summary="Attach a file to a vector store")
def attach_file(name: str, request: AttachFile, stores: CurrentStores) -> VectorStoreFileObject:
    """Attach a file; it is indexed in the background."""
    return vector_store_file_object(stores.attach(name, request.file_id, request.attributes))


@router.get("/{name}/files", summary="List the files of a vector store, newest first")
def list_vector_store_files(
    name: str,
    stores: CurrentStores,
    after: str | None = None,
    limit: PageLimit = 20,
    order: Order = "desc",
) -> ListPage[VectorStoreFileObject]:
    """List the files of a vector store."""
    objects = stores.workspace.objects
    objects.find(STORE, name)
    cursor = f"{name}:{after}" if after else None
    rows, has_more = objects.page(FILE, name, cursor, limit, order)
    return ListPage[VectorStoreFileObject].of(rows, has_more, vector_store_file_object)


@router.get("/{name}/files/{file}", summary="Describe a file of a vector store")
def get_vector_store_file(name: str, file: str, stores: CurrentStores) -> VectorStoreFileObject:
    """Describe a file of a vector store."""
    return vector_store_file_object(stores.find_file(name, file))


@router.post("/{name}/files/{file}", summary="Replace the attributes of a file")
def update_vector_store_file(
    name: str, file: str, request: UpdateFile, stores: CurrentStores
) -> VectorStoreFileObject:
    """Replace the attributes of a file."""
    return vector_store_file_object(stores.update_attributes(name, file, request.attributes))


@router.delete("/{name}/files/{file}", summary="Detach a file from a vector store; the file stays")
def detach_file(name: str, file: str, stores: CurrentStores) -> DeletedObject:
    """Detach a file from a vector store."""
    stores.detach(name, file)
    return DeletedObject(id=file, object="vector_store.file.deleted")


@router.get("/{name}/files/{file}/content", summary="Read the text of a file")
def get_vector_store_file_content(name: str, file: str, stores: CurrentStores) -> FileContentPage:
    """Read the text of a file as it was indexed."""
    stores.find_file(name, file)
    text = stores.parse_file(stores.workspace.files.find(file)).text
    return FileContentPage(data=[{"type": "text", "text": text}])


@router.post("/{name}/file_batches", summary="Attach several files to a vector store")
def attach_files(name: str, request: AttachFiles, stores: CurrentStores) -> FileBatchObject:
    """Attach several files; they are indexed in the background."""
    stores.workspace.objects.find(STORE, name)
    batch = stores.attach_all(name, request.file_ids, request.attributes)
    return _describe_batch(stores, batch)


@router.get("/{name}/file_batches/{batch}", summary="Describe a batch of files")
def get_file_batch(name: str, batch: str, stores: CurrentStores) -> FileBatchObject:
    """Describe a batch and the progress of its files."""
    return _describe_batch(stores, stores.workspace.objects.find(BATCH, batch, name))


@router.get("/{name}/file_batches/{batch}/files", summary="List the files of a batch")
def list_batch_files(
    name: str, batch: str, stores: CurrentStores, after: str | None = None
) -> ListPage[VectorStoreFileObject]:
    """List the files of a batch."""
    files = stores.files_in_batch(stores.workspace.objects.find(BATCH, batch, name))
    file_ids = [file.body["file_id"] for file in files]
    if after is not None and after not in file_ids:
        raise RequestError(f"No such object in this list: {after}.", "after", "invalid_cursor")
    rest = files[file_ids.index(after) + 1 :] if after else files
    return ListPage[VectorStoreFileObject].of(rest, False, vector_store_file_object)


@router.post("/{name}/file_batches/{batch}/cancel", summary="Cancel the files not indexed yet")
def cancel_file_batch(name: str, batch: str, stores: CurrentStores) -> FileBatchObject:
    """Cancel the files of a batch that are not indexed yet."""
    record = stores.workspace.objects.find(BATCH, batch, name)
    stores.cancel_batch(record)
    return _describe_batch(stores, record)
