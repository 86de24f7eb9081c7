"""Responses of the health checks."""

from typing import Literal

from burnish.serve.protocol import ApiObject, OmittedIfNone


class Health(ApiObject):
    """The response to GET /healthz."""

    status: Literal["ok"] = "ok"


class Readiness(ApiObject):
    """The response to GET /readyz."""

    status: Literal["ready", "not ready"]
    waits_for: OmittedIfNone[list[str]] = None
