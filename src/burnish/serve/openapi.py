"""`/openapi.json`: what FastAPI derives from the routes, with their errors and stream events."""

from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from burnish.serve.errors import ErrorObject

_REFERENCE = "#/components/schemas/{model}"
#: Where the description of a response carries schemas to be moved to the components.
_COMPONENTS = "x-components"


def event_stream(event: Any) -> dict[str, Any]:
    """Describe server-sent events whose `data` is the JSON of an `event`, a TypedDict or a union.

    The result is for `responses={200: ...}` of a route of a `DocumentedApp`.
    """
    schema, components = _schema_and_components(event)
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    item = {"type": "object", "required": ["data"], "properties": {"data": data}}
    return {
        "content": {"text/event-stream": {"schema": {"type": "string"}, "itemSchema": item}},
        _COMPONENTS: components,
    }


def _error(description: str) -> dict[str, Any]:
    schema, components = _schema_and_components(ErrorObject)
    return {
        "description": description,
        "content": {"application/json": {"schema": schema}},
        _COMPONENTS: components,
    }


def _schema_and_components(type_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schema of a type, and the schemas that it refers to by their names."""
    adapter = TypeAdapter(type_)
    schema = adapter.json_schema(mode="serialization", ref_template=_REFERENCE)
    components = schema.pop("$defs", {})
    if title := schema.get("title"):
        components[title] = schema
        schema = {"$ref": _REFERENCE.format(model=title)}
    return schema, components


#: The errors that every route may answer with, for `FastAPI(responses=...)`.
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": _error("The request was refused."),
    "5XX": _error("The server could not answer."),
}


class DocumentedApp(FastAPI):
    """FastAPI whose OpenAPI document has the schemas of errors and events among its components."""

    def openapi(self) -> dict[str, Any]:
        """Build the OpenAPI document once."""
        if self.openapi_schema is None:
            document = super().openapi()
            for path in document["paths"].values():
                for operation in path.values():
                    for response in operation["responses"].values():
                        components = response.pop(_COMPONENTS, {})
                        document["components"]["schemas"].update(components)
        assert self.openapi_schema is not None
        return self.openapi_schema
