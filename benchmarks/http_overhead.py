"""What does HTTP cost beside the bare engine?

    python benchmarks/http_overhead.py smollm2-135m-instruct --pairs 40 --json

One process, one engine object, one scheduler. Each question is asked twice, once straight of the
scheduler and once through the unmodified `openai` client and a real socket; which goes first is
drawn. Both answers are greedy and must be the same text. What counts is the ratio of the two times
of a pair: whatever else the machine does meets both. Server and client share the process and its
interpreter lock, so the figure is an upper bound.
"""

import argparse
import json
import random
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import openai
import uvicorn

from burnish.core.records import Message, Prompt
from burnish.core.stats import quantile, quantile_interval
from burnish.engines.scheduling.model_pool import ModelPool, open_model_pool
from burnish.engines.scheduling.scheduler import Scheduler
from burnish.serve.app import create_app
from burnish.serve.auth.keys import ApiKeys

KEY = "bk-overhead"
WORDS = ("parcel", "refund", "lamp", "account", "password", "login", "order", "late", "red", "pear")


def bare(fleet: ModelPool, scheduler: Scheduler, model: str, tokens: int) -> Callable[[str], str]:
    """Asks the scheduler itself."""

    def ask(question: str) -> str:
        done, last = threading.Event(), []

        def tell(update) -> None:  # noqa: ANN001
            if update.answer or update.error:
                last.append(update)
                done.set()

        engine = fleet.find(model)
        prompt = Prompt((Message("user", question),), max_new_tokens=tokens)
        scheduler.submit(engine, [engine.build_request(prompt)], [tell])
        done.wait()
        if last[0].error:
            raise last[0].error
        return last[0].answer.text

    return ask


def over_http(address: str, model: str, tokens: int, stream: bool) -> Callable[[str], str]:
    """Asks through the client."""
    client = openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=3600)

    def ask(question: str) -> str:
        messages = [{"role": "user", "content": question}]
        asked = {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0}
        if not stream:
            return client.chat.completions.create(**asked).choices[0].message.content
        chunks = client.chat.completions.create(**asked, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    return ask


def seconds_of(ask: Callable[[str], str], question: str) -> tuple[float, str]:
    """How long an answer takes, and the answer."""
    begun = time.perf_counter()
    said = ask(question)
    return time.perf_counter() - begun, said


def compared(ways: dict[str, Callable[[str], str]], pairs: int) -> dict[str, float | int]:
    """The ratios of so many pairs, after two that warm up."""
    draw, ratios, plain = random.Random(0), [], []
    for turn in range(pairs + 2):
        question = f"{turn} {' '.join(draw.choices(WORDS, k=20))}?"
        order = draw.sample(sorted(ways), 2)
        found = {name: seconds_of(ways[name], question) for name in order}
        assert found["bare"][1] == found["http"][1], "the two ways must say the same"
        if turn >= 2:
            ratios.append(found["http"][0] / found["bare"][0])
            plain.append(found["bare"][0])
    interval = quantile_interval(ratios, 0.5)
    return {"pairs": pairs, "bare_seconds": quantile(plain, 0.5), "ratio": quantile(ratios, 0.5),
            "low": interval.low, "high": interval.high}  # fmt: skip


def main() -> None:
    """Measure, and print the median ratio with its 95 % interval."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--whole", action="store_true", help="Do not stream.")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fleet = open_model_pool([given.model])
        model = next(iter(fleet.engines))
        app = create_app(fleet, ApiKeys(Path(folder) / "keys.json", KEY))
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            ways = {
                "bare": bare(fleet, app.state.scheduler, model, given.tokens),
                "http": over_http(address, model, given.tokens, not given.whole),
            }
            found = {"model": model, "tokens": given.tokens, **compared(ways, given.pairs)}
        finally:
            server.should_exit = True
            thread.join()
            fleet.close()
    if given.json:
        print(json.dumps(found))
    else:
        print(f"{found['ratio']:.3f} times as long ({found['low']:.3f} to {found['high']:.3f})")


if __name__ == "__main__":
    main()
