"""The process that llama.cpp runs in: its HTTP server, until it is ended.

Started by `engines.child` with its parameters as JSON; it prints its address as a line of JSON.
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


def make_parameters(asked: dict[str, Any]) -> Any:
    """llama.cpp's parameters: `model` and `adapters` (paths), `threads`, `slots`, `context` (tokens
    of a slot), `cache` (the type of keys and values)."""
    chosen = xllamacpp.CommonParams()
    chosen.model.path = asked["model"]
    chosen.n_ctx, chosen.n_parallel = asked["context"] * asked["slots"], asked["slots"]
    # A slot has its own part of the cache: what one request takes is never another one's lack.
    chosen.kv_unified = False
    chosen.cache_type_k = chosen.cache_type_v = _CACHES[asked["cache"]]
    chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = asked["threads"]
    # A conversation that outgrows the context is an error, not a reason to forget its beginning.
    chosen.ctx_shift = chosen.warmup = False
    chosen.verbosity = -1
    # Any program of this machine and any web page can reach the port: nobody is answered without
    # the key, and no page is told that it may read an answer.
    chosen.api_keys = [engine_key()]
    chosen.cors_origins, chosen.cors_credentials = "", False
    chosen.ui = chosen.endpoint_slots = False
    # It would keep what past requests have computed, up to 8 GiB; a slot's last prompt stays.
    chosen.cache_ram_mib = 0
    chosen.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in asked["adapters"]
    ]
    # llama.cpp reuses keys and values of one adapter for another one's request (its #26207).
    chosen.cache_prompt = not asked["adapters"]
    return chosen


def main() -> None:
    """Serve until the process is ended."""
    server = xllamacpp.Server(make_parameters(json.loads(sys.argv[1])))
    sys.stdout.write(json.dumps({"url": server.listening_address}) + "\n")
    sys.stdout.flush()
    # Nobody reads on: what the library prints later must not fill the pipe.
    os.dup2(2, 1)
    threading.Event().wait()


if __name__ == "__main__":
    main()
