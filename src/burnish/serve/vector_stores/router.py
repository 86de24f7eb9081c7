"""The routes /vector_stores."""

import time
from typing import Any

from fastapi import APIRouter

from burnish.serve.errors import RequestError
from burnish.serve.protocol import PageLimit
from burnish.serve.store.pagination import Order, page_body
from burnish.serve.store.schema import StoredObject
from burnish.serve.vector_stores.protocol import (
    AttachFile,
    AttachFiles,
    CreateVectorStore,
    SearchVectorStore,
    UpdateFile,
    UpdateVectorStore,
    file_batch_body,
    store_file_body,
    vector_store_body,
)
from burnish.serve.vector_stores.service import BATCH, FILE, STORE, VectorStores


def vector_store_routes(vectors: VectorStores) -> APIRouter:
    """Make, fill and search vector stores."""
    router, records = APIRouter(prefix="/vector_stores"), vectors.workspace.objects

    def store_body(store: StoredObject) -> dict[str, Any]:
        return vector_store_body(store, records.all(FILE, store.id), vectors.index_bytes(store.id))

    @router.post("", summary="Make a vector store")
    def create_store(request: CreateVectorStore) -> dict[str, Any]:
        return store_body(vectors.create(request))

    @router.get("", summary="The vector stores, newest first")
    def list_stores(
        after: str | None = None, limit: PageLimit = 20, order: Order = "desc"
    ) -> dict[str, Any]:
        return page_body(*records.page(STORE, None, after, limit, order), store_body)

    @router.get("/{name}", summary="One vector store")
    def get_store(name: str) -> dict[str, Any]:
        return store_body(records.find(STORE, name))

    @router.post("/{name}", summary="Rename a vector store, or label it")
    def update_store(name: str, request: UpdateVectorStore) -> dict[str, Any]:
        with records.editing(STORE, name) as store:
            store.body = {**store.body, **request.model_dump(exclude_unset=True)}
        return store_body(store)

    @router.delete("/{name}", summary="Delete a vector store; its files stay")
    def delete_store(name: str) -> dict[str, Any]:
        vectors.delete(name)
        return {"id": name, "object": "vector_store.deleted", "deleted": True}

    @router.post("/{name}/search", summary="The passages that answer best")
    def search_store(name: str, request: SearchVectorStore) -> dict[str, Any]:
        found = vectors.search(records.find(STORE, name), request)
        with records.editing(STORE, name) as store:
            store.body = {**store.body, "last_active_at": int(time.time())}
        return {
            "object": "vector_store.search_results.page",
            "search_query": list(request.queries),
            "data": [hit.body for hit in found],
            "has_more": False,
            "next_page": None,
        }

    router.include_router(_file_routes(vectors), prefix="/{name}/files")
    router.include_router(_batch_routes(vectors), prefix="/{name}/file_batches")
    return router


def _file_routes(vectors: VectorStores) -> APIRouter:
    router, records = APIRouter(), vectors.workspace.objects

    @router.post("", summary="Let a file come into a store")
    def attach_file(name: str, request: AttachFile) -> dict[str, Any]:
        return store_file_body(vectors.attach(name, request.file_id, request.attributes))

    @router.get("", summary="The files of a store, newest first")
    def list_files(
        name: str, after: str | None = None, limit: PageLimit = 20, order: Order = "desc"
    ) -> dict[str, Any]:
        records.find(STORE, name)
        place = f"{name}:{after}" if after else None
        return page_body(*records.page(FILE, name, place, limit, order), store_file_body)

    @router.get("/{file}", summary="One file of a store")
    def get_file(name: str, file: str) -> dict[str, Any]:
        return store_file_body(vectors.find_file(name, file))

    @router.post("/{file}", summary="Change a file's attributes")
    def update_file(name: str, file: str, request: UpdateFile) -> dict[str, Any]:
        with records.editing(FILE, vectors.find_file(name, file).id) as held:
            held.body = {**held.body, "attributes": request.attributes or {}}
        return store_file_body(held)

    @router.delete("/{file}", summary="Take a file out of a store; the file stays")
    def detach_file(name: str, file: str) -> dict[str, Any]:
        vectors.detach(name, file)
        return {"id": file, "object": "vector_store.file.deleted", "deleted": True}

    @router.get("/{file}/content", summary="The text of a file")
    def get_file_content(name: str, file: str) -> dict[str, Any]:
        vectors.find_file(name, file)
        text = vectors.parse_file(vectors.workspace.files.find(file)).text
        return {
            "object": "vector_store.file_content.page",
            "data": [{"type": "text", "text": text}],
            "has_more": False,
            "next_page": None,
        }

    return router


def _batch_routes(vectors: VectorStores) -> APIRouter:
    router, records = APIRouter(), vectors.workspace.objects

    def file_batch_body_of(batch: StoredObject) -> dict[str, Any]:
        return file_batch_body(batch, vectors.files_in_batch(batch))

    @router.post("", summary="Let several files come into a store")
    def attach_files(name: str, request: AttachFiles) -> dict[str, Any]:
        records.find(STORE, name)
        return file_batch_body_of(vectors.attach_all(name, request.file_ids, request.attributes))

    @router.get("/{batch}", summary="How far the files of a batch are")
    def get_file_batch(name: str, batch: str) -> dict[str, Any]:
        return file_batch_body_of(records.find(BATCH, batch, name))

    @router.get("/{batch}/files", summary="The files of a batch")
    def list_batch_files(name: str, batch: str, after: str | None = None) -> dict[str, Any]:
        found = vectors.files_in_batch(records.find(BATCH, batch, name))
        names = [file.body["file_id"] for file in found]
        if after is not None and after not in names:
            raise RequestError(f"No such object in this list: {after}.", "after", "invalid_cursor")
        rest = found[names.index(after) + 1 :] if after else found
        return page_body(rest, False, store_file_body)

    @router.post("/{batch}/cancel", summary="Leave out the files that aren't in yet")
    def cancel_file_batch(name: str, batch: str) -> dict[str, Any]:
        found = records.find(BATCH, batch, name)
        for file in vectors.files_in_batch(found):
            with records.editing(FILE, file.id) as held:
                if held.status == "in_progress":
                    held.status = "cancelled"
        return file_batch_body_of(found)

    return router
