"""`/openapi.json`: what FastAPI derives from the routes, and the events of their streams."""

from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from burnish.serve.errors import ErrorObject

_REFERENCE = "#/components/schemas/{model}"

#: The errors that every route may answer with, for `FastAPI(responses=...)`.
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorObject, "description": "The request was refused."},
    "5XX": {"model": ErrorObject, "description": "The server could not answer."},
}


def event_stream(event: Any) -> dict[str, Any]:
    """Describe server-sent events whose `data` is the JSON of an `event` (a TypedDict, or a union).

    For `responses={200: ...}` of a route. `DocumentedApp` puts the schema of `event` where the
    description refers to it.
    """
    adapter = TypeAdapter(event)
    schema = adapter.json_schema(mode="serialization", ref_template=_REFERENCE)
    components = schema.pop("$defs", {})
    if title := schema.get("title"):
        components[title] = schema
        schema = {"$ref": _REFERENCE.format(model=title)}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    item = {"type": "object", "required": ["data"], "properties": {"data": data}}
    return {
        "content": {"text/event-stream": {"schema": {"type": "string"}, "itemSchema": item}},
        _EVENT_COMPONENTS: components,
    }


#: Where a route's description carries the schemas to be moved to the components.
_EVENT_COMPONENTS = "x-event-components"


class DocumentedApp(FastAPI):
    """FastAPI whose OpenAPI document has the schemas of stream events among its components."""

    def openapi(self) -> dict[str, Any]:
        """Build the OpenAPI document once."""
        if self.openapi_schema is None:
            document = super().openapi()
            for path in document["paths"].values():
                for operation in path.values():
                    for response in operation["responses"].values():
                        events = response.pop(_EVENT_COMPONENTS, {})
                        document["components"]["schemas"].update(events)
        assert self.openapi_schema is not None
        return self.openapi_schema
