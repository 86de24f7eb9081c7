"""A model whose weights answer at another server, behind the routes of this one."""

from pydantic import Field

from burnish.core.section import Section


class Upstream(Section):
    """A model at an OpenAI-compatible server that takes prompts as tokens (vLLM); what renders and
    encodes them is on this machine."""

    url: str = Field(
        pattern=r"^https?://[^\s/]+",
        description="Address that ends before /completions: http://gpu:8000/v1.",
    )
    model: str = Field("", description="Its name over there; the same as here if empty.")
    source: str = Field(
        "",
        description="The run, exported folder or model on this machine whose tokenizer, template "
        "and system message render the prompts; the one of that name if empty.",
    )
    key_from: str = Field("", description="The environment variable that holds the server's key.")
    slots: int = Field(64, ge=1, description="Requests that it is given at once; others wait here.")
    timeout: float = Field(
        120, gt=0, description="Seconds without a word after which a request has failed."
    )
