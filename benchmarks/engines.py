"""The engines on the same fine-tuned run: tokens read and made a second, waiting, memory.

    python benchmarks/engines.py RUN [--users 1 4 16] [--formats gguf:q8_0 ...] [--json FILE]

Each format is served by `burnish serve` in a process of its own and asked by streams of as many
clients as there are users, each question with a beginning of its own, so that no cache helps. Where
the engine has a child, the child is asked the same token numbers too, without our server: what
HTTP costs is the time of the one over the time of the other, by turns in the same run.
"""

import argparse
import json
import platform
import secrets
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil

from burnish.core.progress import LineReporter, set_reporter
from burnish.core.records import Message, Prompt
from burnish.core.runs import find_run
from burnish.core.stats import quantile
from burnish.engines.external.base import ExternalEngine, LaunchOptions
from burnish.engines.external.process import EngineProcess
from burnish.engines.registry import EXTERNAL_ENGINES
from burnish.export.formats.registry import resolve_quant, write_export
from burnish.export.parity.clients import find_free_port
from burnish.models.artifact import Artifact, open_artifact

FORMATS = ("merged:bf16", "gguf:q8_0", "gguf-lora:q8_0", "onnx:int4", "openvino:int8")
HEADS = (
    "engine", "users", "read tokens/s", "made tokens/s", "first p50 ms", "first p95 ms",
    "memory MB", "load s", "HTTP",
)  # fmt: skip
WORDS = (
    "parcel", "lamp", "order", "money", "password", "account", "refund", "delivery", "broken",
)  # fmt: skip


@dataclass(frozen=True)
class Told:
    """One answer: seconds to its first piece and in all, tokens read and made."""

    first: float
    whole: float
    read: int
    made: int


def question(words: int) -> str:
    """Different from its first word on."""
    draw = secrets.SystemRandom()
    return f"{secrets.token_hex(4)} " + " ".join(draw.choices(WORDS, k=words))


class Server:
    """`burnish serve` of one folder, in a workspace of its own."""

    def __init__(self, folder: Path, threads: int, slots: int, context: int) -> None:
        self.key, port = secrets.token_hex(16), find_free_port()
        self.home = tempfile.TemporaryDirectory()
        begun = time.perf_counter()
        words = ["burnish", "-q", "serve", str(folder), "--port", str(port)]
        words += [
            "--set",
            f"serve.engine_slots={slots}",
            "--set",
            f"serve.engine_context={context}",
        ]
        words += ["--set", "serve.max_batch=16"]
        settings = {
            "BURNISH_HOME": self.home.name,
            "BURNISH_API_KEY": self.key,
            "OMP_NUM_THREADS": str(threads),
        }
        self.child = EngineProcess("burnish serve", words, f"http://127.0.0.1:{port}", settings)
        self.load_s = time.perf_counter() - begun
        self.model = self.child.ask("/v1/models", key=self.key)["data"][0]["id"]

    def ask(self, text: str, longest: int) -> Told:
        body = {
            "model": self.model, "messages": [{"role": "user", "content": text}],
            "max_tokens": longest, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        begun, first, usage = time.perf_counter(), 0.0, {}
        with closing(self.child.stream("/v1/chat/completions", body, self.key)) as pieces:
            for piece in pieces:
                said = piece["choices"][0]["delta"].get("content") if piece["choices"] else None
                first = first or (time.perf_counter() - begun if said else 0.0)
                if usage := piece["usage"]:  # the last before [DONE], which is no JSON
                    break
        whole = time.perf_counter() - begun
        return Told(first or whole, whole, usage["prompt_tokens"], usage["completion_tokens"])

    def memory(self) -> int:
        """Resident bytes of the server and whatever it has started."""
        process = psutil.Process(self.child._process.pid)
        return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)])

    def close(self) -> None:
        self.child.close()
        self.home.cleanup()


def bare(engine: ExternalEngine) -> Callable[[str, int], Told]:
    """Ask an engine's child by itself, as the server does."""

    def ask(text: str, longest: int) -> Told:
        begun = time.perf_counter()
        request = engine.build_request(Prompt((Message("user", text),), max_new_tokens=longest))
        first = 0.0
        for _ in engine.answer_request(request):
            first = first or time.perf_counter() - begun
        answer, whole = request.answer(), time.perf_counter() - begun
        return Told(first or whole, whole, answer.tokens_in, answer.tokens_out)

    return ask


def many(
    ask: Callable[[str, int], Told], users: int, count: int, words: int, longest: int
) -> tuple[list[Told], float]:
    """The answers to `count` questions by so many clients at once, and the seconds of all."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(users) as clients:
        told = list(clients.map(lambda _: ask(question(words), longest), range(count)))
    return told, time.perf_counter() - begun


def measure(name: str, artifact: Artifact, given: argparse.Namespace) -> list[dict]:
    """The lines of one engine."""
    server = Server(artifact.path.absolute(), given.threads, given.slots, given.context)
    how = LaunchOptions(given.threads, given.context, given.slots)
    in_child = EXTERNAL_ENGINES.get(artifact.kind)
    engine = in_child(artifact, how) if in_child else None
    lines = []
    try:
        many(server.ask, 2, 2, given.words, given.longest)
        if engine:
            many(bare(engine), 1, 1, given.words, given.longest)
        for users in given.users:
            count = max(given.questions, 2 * users)
            told, spent = many(server.ask, users, count, given.words, given.longest)
            reading, took = many(server.ask, users, count, given.words, 1)
            ratio = _overhead(server, engine, users, given) if engine else None
            lines.append(
                {
                    "engine": name,
                    "users": users,
                    "read_tokens_per_s": sum(one.read for one in reading) / took,
                    "made_tokens_per_s": sum(one.made for one in told) / spent,
                    "first_p50_s": quantile([one.first for one in told], 0.5),
                    "first_p95_s": quantile([one.first for one in told], 0.95),
                    "memory_bytes": server.memory(),
                    "load_s": server.load_s,
                    "http_over_bare": ratio,
                }
            )
    finally:
        server.close()
        if engine:
            engine.close()
    return lines


def _overhead(
    server: Server, engine: ExternalEngine, users: int, given: argparse.Namespace
) -> float:
    """Seconds a token through our server over those of the child alone: the median of pairs."""
    count, found = max(given.questions // 2, users), []
    for _ in range(given.pairs):
        rates = []
        for ask in (server.ask, bare(engine)):
            told, spent = many(ask, users, count, given.words, given.longest)
            rates.append(spent / sum(one.read + one.made for one in told))
        found.append(rates[0] / rates[1])
    return quantile(found, 0.5)


def row(line: dict) -> str:
    ratio = line["http_over_bare"]
    cells = (
        line["engine"], str(line["users"]), f"{line['read_tokens_per_s']:.0f}",
        f"{line['made_tokens_per_s']:.0f}", f"{1000 * line['first_p50_s']:.0f}",
        f"{1000 * line['first_p95_s']:.0f}", f"{line['memory_bytes'] / 1e6:.0f}",
        f"{line['load_s']:.1f}", f"{ratio - 1:+.1%}" if ratio else "",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    parser.add_argument("--users", nargs="+", type=int, default=(1, 4, 16))
    parser.add_argument("--questions", type=int, default=32)
    parser.add_argument("--words", type=int, default=120, help="words of a question")
    parser.add_argument("--longest", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--pairs", type=int, default=5, help="pairs that HTTP is measured by")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    set_reporter(LineReporter(30))
    artifact = open_artifact(find_run(given.run).artifact)
    print("| " + " | ".join(HEADS) + " |\n" + "|---" * len(HEADS) + "|", flush=True)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.formats:
            to, _, quant = name.partition(":")
            place = Path(folder) / name.replace(":", "-")
            written = write_export(place, artifact, to, resolve_quant(to, quant or "auto"))
            for line in measure(name, written, given):
                print(row(line), flush=True)
                found.append(line)
    if given.json:
        settings = {key: str(value) for key, value in vars(given).items()}
        machine = f"{platform.machine()}, {psutil.cpu_count()} CPUs"
        whole = {"machine": machine, "settings": settings, "lines": found}
        given.json.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
