"""How fast does the server answer many users of many adapters, and what do HTTP and adapters cost?

    python benchmarks/serve_load.py --users 1 4 16 --adapters 1 8 64 --json

Adapters are random LoRA weights (rank 8) on one base: they say nonsense, and cost what trained ones
cost. Each user sends one streamed chat after the other through the unmodified `openai` client, the
adapters in turn, and reads it to its end. The bare engine gets the very same questions through the
same scheduler, in a process of its own, without HTTP; both are asked once per adapter before
anything is timed, and which of the two goes first alternates. Time to the first token counts the
wait in the queue. Memory is the resident set after loading, per adapter beyond the smallest count.
"""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

KEY = "bk-load"
WORDS = ("parcel", "refund", "lamp", "account", "password", "login", "order", "late", "red", "pear")
TOKENS = 32
#: Asks a model by its name: how many tokens it made, and seconds until the first.
Ask = Callable[[str, str], tuple[int, float]]


def make_adapters(base_name: str, count: int, folder: Path) -> None:
    """Folders `a0`, `a1`, ... with random weights."""
    import torch
    from peft import LoraConfig, get_peft_model

    from burnish.models.artifact import save_artifact
    from burnish.models.load import load_model, load_tokenizer
    from burnish.models.local_models import find_model

    torch.manual_seed(0)
    base = find_model(base_name)
    tokenizer = load_tokenizer(base)
    shape = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load_model(base, torch.float32), shape)
    for number in range(count):
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_" in name:
                    weight.normal_(0, 0.02)
        save_artifact(folder / f"a{number}", model, tokenizer, base, {"run": f"a{number}"})


def over_http(address: str) -> Ask:
    """Through the client."""
    import openai

    client = openai.OpenAI(base_url=address, api_key=KEY, max_retries=0, timeout=3600)

    def ask(model: str, question: str) -> tuple[int, float]:
        begun, first, made = time.perf_counter(), 0.0, 0
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            max_tokens=TOKENS,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content and not first:
                first = time.perf_counter() - begun
            made = chunk.usage.completion_tokens if chunk.usage else made
        return made, first or time.perf_counter() - begun

    return ask


def bare(folders: Sequence[str], batch: int) -> Ask:
    """Straight through the scheduler, in this process."""
    from burnish.core.records import Message, Prompt
    from burnish.engines.scheduling.model_pool import open_model_pool
    from burnish.engines.scheduling.scheduler import Scheduler

    fleet, scheduler, encoding = open_model_pool(folders), Scheduler(batch), threading.Lock()

    def ask(model: str, question: str) -> tuple[int, float]:
        begun, first, done = time.perf_counter(), list[float](), threading.Event()
        last: list[Any] = []

        def tell(update: Any) -> None:
            if update.text and not first:
                first.append(time.perf_counter() - begun)
            if update.answer or update.error:
                last.append(update)
                done.set()

        engine = fleet.find(model)
        with encoding:
            prompt = Prompt((Message("user", question),), max_new_tokens=TOKENS)
            request = engine.build_request(prompt)
        scheduler.submit(engine, [request], [tell])
        done.wait()
        if last[0].error:
            raise last[0].error
        return last[0].answer.tokens_out, first[0] if first else time.perf_counter() - begun

    return ask


def load(ask: Ask, adapters: int, users: int, requests: int) -> dict[str, float]:
    """What `users` see who ask `requests` questions each, all at once."""
    from burnish.core.stats import quantile

    turns = itertools.count()
    seen: list[tuple[int, float]] = []

    def one(user: int) -> None:
        for _ in range(requests):
            turn = next(turns)
            words = [WORDS[(turn * step + user) % len(WORDS)] for step in range(1, 21)]
            seen.append(ask(f"a{turn % adapters}", f"{turn} {' '.join(words)}?"))

    begun = time.perf_counter()
    with ThreadPoolExecutor(users) as pool:
        list(pool.map(one, range(users)))
    seconds = time.perf_counter() - begun
    tokens, first = sum(made for made, _ in seen), [wait for _, wait in seen]
    return {
        "tokens_per_second": tokens / seconds,
        "seconds": seconds,
        "tokens": tokens,
        "first_token_p50": quantile(first, 0.5),
        "first_token_p95": quantile(first, 0.95),
    }


class Server:
    """`burnish serve` in a process of its own."""

    def __init__(self, folders: Sequence[str], batch: int, home: Path) -> None:
        environment = {**os.environ, "BURNISH_HOME": str(home), "BURNISH_API_KEY": KEY}
        program = "from burnish.cli.main import main; main()"
        words = ["serve", *folders, "--port", "0", "--set", f"serve.max_batch={batch}"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *words],
            stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self.process.stderr
        for line in self.process.stderr:
            if found := re.search(r"Serving .* at (\S+)", line):
                self.address = found[1]
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                return
        raise SystemExit("The server never began.")

    def close(self) -> int:
        """Bytes that it had in memory."""
        resident = psutil.Process(self.process.pid).memory_info().rss
        self.process.kill()
        self.process.wait()
        return int(resident)


def side(name: str, folder: Path, adapters: int, options: argparse.Namespace) -> dict[str, Any]:
    """All user counts on one side, warmed up first; `memory` in bytes for the server."""
    folders = [str(folder / f"a{number}") for number in range(adapters)]
    if name == "bare":
        ask, server = bare(folders, options.batch), None
    else:
        server = Server(folders, options.batch, folder / f"home-{adapters}")
        ask = over_http(server.address)
    for number in range(adapters):
        ask(f"a{number}", "red")
    runs = {users: load(ask, adapters, users, options.requests) for users in options.users}
    return {"runs": runs, "memory": server.close() if server else None}


def apart(name: str, folder: Path, adapters: int, options: argparse.Namespace) -> dict[str, Any]:
    """The same in a process of its own."""
    words = ["--side", name, "--folder", str(folder), "--adapters", str(adapters)]
    words += ["--users", *map(str, options.users), "--requests", str(options.requests)]
    words += ["--tokens", str(TOKENS), "--batch", str(options.batch)]
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"The side `{name}` failed.")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each count of adapters and users."""
    rows, memory = [], dict[int, int]()
    for turn, adapters in enumerate(sorted(options.adapters)):
        order = ("http", "bare") if turn % 2 == 0 else ("bare", "http")
        sides = {name: apart(name, folder, adapters, options) for name in order}
        memory[adapters] = sides["http"]["memory"]
        least = min(memory)
        for users in options.users:
            ours, plain = (sides[name]["runs"][str(users)] for name in ("http", "bare"))
            beyond = adapters - least
            rows.append({
                "users": users,
                "adapters": adapters,
                **ours,
                "bare_tokens_per_second": plain["tokens_per_second"],
                "bare_first_token_p50": plain["first_token_p50"],
                "bare_first_token_p95": plain["first_token_p95"],
                "http_overhead": plain["tokens_per_second"] / ours["tokens_per_second"] - 1,
                "memory": memory[adapters],
                "memory_per_adapter": (memory[adapters] - memory[least]) / beyond
                if beyond else None,
            })  # fmt: skip
            print_row(rows[-1])
    return rows


def print_row(row: dict[str, Any]) -> None:
    """A line for people, as soon as it is known."""
    each = row["memory_per_adapter"]
    print(
        f"{row['users']:3} users, {row['adapters']:3} adapters: "
        f"{row['tokens_per_second']:7.1f} tokens/s (bare {row['bare_tokens_per_second']:.1f}, "
        f"HTTP {row['http_overhead']:+.1%}), first token p50 {row['first_token_p50']:.2f} s, "
        f"p95 {row['first_token_p95']:.2f} s"
        + (f", {each / 2**20:.1f} MiB an adapter" if each is not None else ""),
        file=sys.stderr,
    )


def main() -> None:
    global TOKENS
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--adapters", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--requests", type=int, default=8, help="of each user")
    parser.add_argument("--tokens", type=int, default=32, help="longest answer")
    parser.add_argument("--batch", type=int, default=16, help="requests answered at once")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--side", choices=("http", "bare"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    TOKENS = options.tokens
    if options.side:
        print(json.dumps(side(options.side, options.folder, options.adapters[0], options)))
        return
    with tempfile.TemporaryDirectory() as name:
        make_adapters(options.model, max(options.adapters), Path(name))
        rows = measured(Path(name), options)
    if options.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
