"""The process that runs llama.cpp's HTTP server until it is stopped.

Started by `engines.external.process` with its parameters as JSON; it prints its address as a line
of JSON.
"""

import json
import os
import sys
import threading
from typing import Any

import xllamacpp

from burnish.core.settings import engine_key

_CACHES = {
    "f16": xllamacpp.ggml_type.GGML_TYPE_F16,
    "q8_0": xllamacpp.ggml_type.GGML_TYPE_Q8_0,
    "q4_0": xllamacpp.ggml_type.GGML_TYPE_Q4_0,
}


def make_parameters(settings: dict[str, Any]) -> Any:
    """Return llama.cpp's parameters: `model` and `adapters` (paths), `threads`, `slots`, `context`
    (tokens of a slot), `cache` (the type of keys and values)."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = settings["model"]
    parameters.n_ctx, parameters.n_parallel = (
        settings["context"] * settings["slots"],
        settings["slots"],
    )
    # Each slot has its own part of the cache, so requests can't starve each other.
    parameters.kv_unified = False
    parameters.cache_type_k = parameters.cache_type_v = _CACHES[settings["cache"]]
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = settings["threads"]
    # A conversation that outgrows the context is an error; its beginning is never dropped.
    parameters.ctx_shift = parameters.warmup = False
    parameters.verbosity = -1
    # Any program of this machine and any web page can reach the port: requests need the key, and
    # no page may read a response.
    parameters.api_keys = [engine_key()]
    parameters.cors_origins, parameters.cors_credentials = "", False
    parameters.ui = parameters.endpoint_slots = False
    # Disable the host cache of past requests (up to 8 GiB); a slot's last prompt stays.
    parameters.cache_ram_mib = 0
    parameters.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in settings["adapters"]
    ]
    # llama.cpp reuses keys and values across adapters (its #26207).
    parameters.cache_prompt = not settings["adapters"]
    return parameters


def main() -> None:
    """Serve until the process is stopped."""
    server = xllamacpp.Server(make_parameters(json.loads(sys.argv[1])))
    sys.stdout.write(json.dumps({"url": server.listening_address}) + "\n")
    sys.stdout.flush()
    # Nobody reads stdout any more: the library's output must not fill the pipe.
    os.dup2(2, 1)
    threading.Event().wait()


if __name__ == "__main__":
    main()
