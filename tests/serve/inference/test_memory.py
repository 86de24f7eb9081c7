"""A server that has answered thousands of requests takes no more memory than after hundreds.

`-m long` asks 10,000 requests of each engine.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest

from burnish.core.recipe.serve import Serve
from burnish.engines.external.base import LaunchOptions
from burnish.engines.external.llamacpp import LlamaCppEngine
from burnish.engines.scheduling.model_pool import ModelPool, open_model_pool
from burnish.export.formats.gguf import write_gguf
from burnish.serve.app import create_app
from burnish.serve.auth.keys import ApiKeys
from burnish.train.loop.peak_memory import release_memory
from tests.fixtures.fine_tuning_server import KEY
from tests.fixtures.server import running

CLIENTS = 4
#: Bytes a request that may stay for good, at most. One answer's keys and values take 16 kB here.
BOUND = {320: 8192, 10_000: 256}


def served_tiny(tiny, tiny_model, tiny_tokenizer, folder):
    """Our own engine."""
    return open_model_pool(["tiny"])


def served_gguf(tiny, tiny_model, tiny_tokenizer, folder):
    """llama.cpp in its child."""
    write_gguf(folder / "tiny.gguf", tiny_model, tiny_tokenizer, "f32", "tiny")
    how = LaunchOptions(threads=1, context=256, slots=2)
    engine = LlamaCppEngine(folder / "tiny.gguf", tiny_tokenizer, "tiny", None, how)
    return ModelPool({"tiny": engine}, {})


def resident(fleet):
    """Bytes of this process and of the engine's child."""
    child = getattr(fleet.find("tiny"), "child", None)
    return psutil.Process().memory_info().rss + (child.memory_bytes() if child else 0)


def slope(address, fleet, requests):
    """Bytes a request: Theil and Sen's median of slopes, after a quarter for warming up."""
    # What tests before this one have freed would be filled first, and no growth be seen.
    release_memory()
    http = httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
    count, lock, points = 0, threading.Lock(), []

    def ask(number):
        nonlocal count
        body = {
            "model": "tiny", "max_tokens": 8, "temperature": 0, "stream": bool(number % 2),
            "messages": [{"role": "user", "content": f"where is parcel {number}?"}],
        }  # fmt: skip
        answer = http.post(f"{address}/v1/chat/completions", json=body)
        assert answer.status_code == 200 and len(answer.text) > 20
        with lock:
            count += 1
            if count % (requests // 40) == 0 and count >= requests // 4:
                points.append((count, resident(fleet)))

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(ask, range(requests)))
    http.close()
    places, sizes = np.array(points, dtype=float).T
    left, right = np.triu_indices(len(points), 1)
    return float(np.median((sizes[right] - sizes[left]) / (places[right] - places[left])))


@pytest.mark.parametrize("requests", [320, pytest.param(10_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("open_served", [served_tiny, served_gguf])
def test_memory_is_flat(
    open_served, requests, tiny_folder, tiny_tokenizer, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setenv("BURNISH_MODELS", str(tiny_folder))
    fleet = open_served("tiny", tiny_model, tiny_tokenizer, tmp_path)
    app = create_app(fleet, ApiKeys(tmp_path / "keys.json", KEY), Serve())
    try:
        with running(app) as address:
            grown = slope(address, fleet, requests)
    finally:
        fleet.close()

    print(f"{open_served.__name__}: {grown:.0f} bytes a request over {requests}")
    assert grown < BOUND[requests]


def test_a_leak_would_be_seen(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("BURNISH_MODELS", str(tiny_folder))
    fleet, kept = open_model_pool(["tiny"]), []
    app = create_app(fleet, ApiKeys(tmp_path / "keys.json", KEY), Serve())
    engine = fleet.find("tiny")
    real = engine.build_request_from_ids
    monkeypatch.setattr(
        engine, "build_request_from_ids", lambda *said: (kept.append(b"x" * 65_536), real(*said))[1]
    )
    with running(app) as address:
        assert slope(address, fleet, 320) > BOUND[320]
