"""The sections of a recipe: closed, frozen records whose field descriptions are the only copy.

The command line's help, the published JSON Schema and the docs table all print these texts.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from burnish.core.recipe.section import ExecutorName, Section


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


class Serve(Section):
    """The HTTP server."""

    host: str = Field("127.0.0.1", description="Address to listen on; loopback by default.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    max_batch: int = Field(16, ge=1, description="Requests answered at once.")
    max_new_tokens: int = Field(
        512, ge=1, description="Longest answer if the request names no length."
    )
    prefix_mebibytes: int = Field(
        256,
        ge=0,
        description="Memory for beginnings that prompts share, such as a system prompt, so that "
        "they are read once; 0: none are kept.",
    )
    engine_slots: int = Field(
        4,
        ge=1,
        description="Requests that llama.cpp answers at once for an exported folder; each has a "
        "context of its own. ONNX and OpenVINO answer one after the other.",
    )
    engine_threads: int = Field(
        0, ge=0, description="CPU threads of an exported folder's engine; 0: as many as cores."
    )
    engine_context: int = Field(
        4096,
        ge=64,
        description="Tokens that a request to an exported folder and its answer may have together, "
        "if its model has as many.",
    )
    engine_cache: Literal["f16", "q8_0", "q4_0"] = Field(
        "f16", description="Type of llama.cpp's keys and values, for exported GGUF folders."
    )
    upstream: Mapping[str, Upstream] = Field(
        {},
        description="Models whose weights answer at another server (vLLM), by their names here.",
    )
    python_graders: bool = Field(
        False,
        description="Run `python` graders that requests bring, in a sandbox (Linux with "
        "bubblewrap); off: no request may run code.",
    )
    store: str = Field(
        "",
        description="Database of files and jobs (postgresql+psycopg://...); empty: SQLite in the "
        "workspace.",
    )
    executor: ExecutorName = Field(
        "",
        description="Where fine-tuning jobs are trained: `ray`, `ray://HOST:PORT`, or empty for "
        "this machine.",
    )
    executor_cpus: int | None = Field(
        None,
        ge=1,
        description="CPUs that a job takes of a node of the cluster; all of the smallest node if "
        "empty.",
    )
