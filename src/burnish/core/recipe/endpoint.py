"""Who answers questions that burnish asks of another model: a teacher, a judge."""

from pydantic import Field

from burnish.core.recipe.section import Section


class ModelEndpoint(Section):
    """A local model or run, or a model behind an OpenAI-compatible endpoint."""

    model: str = Field(
        "", description="A run, a model or a folder; with `endpoint`, its name over there."
    )
    endpoint: str = Field(
        "",
        description="Address that ends before /chat/completions; empty: a model of this machine.",
    )
    key_from: str = Field("", description="The environment variable that holds the endpoint's key.")
    concurrency: int = Field(8, ge=1, description="Requests at the same time.")
    requests_per_minute: int | None = Field(
        None, ge=1, description="At most this many requests are sent in a minute."
    )
    timeout: float = Field(120, gt=0, description="Seconds after which a request has failed.")
    retries: int = Field(4, ge=0, description="Further tries for a request that failed.")
    patience: float = Field(
        3600,
        ge=0,
        description="Seconds to wait for an endpoint that answered before and is out of reach.",
    )
