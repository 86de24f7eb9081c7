"""The routes /vector_stores."""

import time
from typing import Any

from fastapi import APIRouter

from burnish.serve.errors import Refused
from burnish.serve.protocol import Limit
from burnish.serve.store.pagination import Order, page_body
from burnish.serve.store.schema import Record
from burnish.serve.vector_stores.protocol import (
    AttachFile,
    AttachFiles,
    CreateStore,
    Search,
    UpdateFile,
    UpdateStore,
    batch_of_store,
    file_of_store,
    store_body,
)
from burnish.serve.vector_stores.service import BATCH, FILE, STORE, Vectors


def vector_routes(vectors: Vectors) -> APIRouter:
    """Make, fill and search vector stores."""
    router, records = APIRouter(prefix="/vector_stores"), vectors.desk.records

    def body(store: Record) -> dict[str, Any]:
        return store_body(store, records.all(FILE, store.id), vectors.size(store.id))

    @router.post("", summary="Make a vector store")
    def create(asked: CreateStore) -> dict[str, Any]:
        return body(vectors.create(asked))

    @router.get("", summary="The vector stores, newest first")
    def some(after: str | None = None, limit: Limit = 20, order: Order = "desc") -> dict[str, Any]:
        return page_body(*records.page(STORE, None, after, limit, order), body)

    @router.get("/{name}", summary="One vector store")
    def one(name: str) -> dict[str, Any]:
        return body(records.find(STORE, name))

    @router.post("/{name}", summary="Rename a vector store, or label it")
    def update(name: str, asked: UpdateStore) -> dict[str, Any]:
        with records.changing(STORE, name) as store:
            store.body = {**store.body, **asked.model_dump(exclude_unset=True)}
        return body(store)

    @router.delete("/{name}", summary="Delete a vector store; its files stay")
    def delete(name: str) -> dict[str, Any]:
        vectors.delete(name)
        return {"id": name, "object": "vector_store.deleted", "deleted": True}

    @router.post("/{name}/search", summary="The passages that answer best")
    def search(name: str, asked: Search) -> dict[str, Any]:
        found = vectors.search(records.find(STORE, name), asked)
        with records.changing(STORE, name) as store:
            store.body = {**store.body, "last_active_at": int(time.time())}
        return {
            "object": "vector_store.search_results.page",
            "search_query": list(asked.queries),
            "data": [hit.body for hit in found],
            "has_more": False,
            "next_page": None,
        }

    router.include_router(_file_routes(vectors), prefix="/{name}/files")
    router.include_router(_batch_routes(vectors), prefix="/{name}/file_batches")
    return router


def _file_routes(vectors: Vectors) -> APIRouter:
    router, records = APIRouter(), vectors.desk.records

    @router.post("", summary="Let a file come into a store")
    def attach(name: str, asked: AttachFile) -> dict[str, Any]:
        return file_of_store(vectors.attach(name, asked.file_id, asked.attributes))

    @router.get("", summary="The files of a store, newest first")
    def some(
        name: str, after: str | None = None, limit: Limit = 20, order: Order = "desc"
    ) -> dict[str, Any]:
        records.find(STORE, name)
        place = f"{name}:{after}" if after else None
        return page_body(*records.page(FILE, name, place, limit, order), file_of_store)

    @router.get("/{file}", summary="One file of a store")
    def one(name: str, file: str) -> dict[str, Any]:
        return file_of_store(vectors.file(name, file))

    @router.post("/{file}", summary="Change a file's attributes")
    def update(name: str, file: str, asked: UpdateFile) -> dict[str, Any]:
        with records.changing(FILE, vectors.file(name, file).id) as held:
            held.body = {**held.body, "attributes": asked.attributes or {}}
        return file_of_store(held)

    @router.delete("/{file}", summary="Take a file out of a store; the file stays")
    def detach(name: str, file: str) -> dict[str, Any]:
        vectors.detach(name, file)
        return {"id": file, "object": "vector_store.file.deleted", "deleted": True}

    @router.get("/{file}/content", summary="The text of a file")
    def content(name: str, file: str) -> dict[str, Any]:
        vectors.file(name, file)
        text = vectors.read(vectors.desk.files.find(file)).text
        return {
            "object": "vector_store.file_content.page",
            "data": [{"type": "text", "text": text}],
            "has_more": False,
            "next_page": None,
        }

    return router


def _batch_routes(vectors: Vectors) -> APIRouter:
    router, records = APIRouter(), vectors.desk.records

    def body(batch: Record) -> dict[str, Any]:
        return batch_of_store(batch, vectors.files_of(batch))

    @router.post("", summary="Let several files come into a store")
    def attach(name: str, asked: AttachFiles) -> dict[str, Any]:
        records.find(STORE, name)
        return body(vectors.attach_all(name, asked.file_ids, asked.attributes))

    @router.get("/{batch}", summary="How far the files of a batch are")
    def one(name: str, batch: str) -> dict[str, Any]:
        return body(records.find(BATCH, batch, name))

    @router.get("/{batch}/files", summary="The files of a batch")
    def files(name: str, batch: str, after: str | None = None) -> dict[str, Any]:
        found = vectors.files_of(records.find(BATCH, batch, name))
        names = [file.body["file_id"] for file in found]
        if after is not None and after not in names:
            raise Refused(f"No such object in this list: {after}.", "after", "invalid_cursor")
        rest = found[names.index(after) + 1 :] if after else found
        return page_body(rest, False, file_of_store)

    @router.post("/{batch}/cancel", summary="Leave out the files that aren't in yet")
    def cancel(name: str, batch: str) -> dict[str, Any]:
        found = records.find(BATCH, batch, name)
        for file in vectors.files_of(found):
            with records.changing(FILE, file.id) as held:
                if held.status == "in_progress":
                    held.status = "cancelled"
        return body(found)

    return router
