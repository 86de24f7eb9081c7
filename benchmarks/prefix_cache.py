"""What does it save that a system prompt is read once? Time to the first token, with and without.

    python benchmarks/prefix_cache.py smollm2-135m-instruct --words 450 --questions 12 --json

One user asks short questions behind one long system prompt; the same engine answers through two
schedulers, one that keeps beginnings and one that doesn't, the two in turn. Both are warm: the kept
one knows the beginning, which its first two questions paid for.
"""

import argparse
import json
import statistics
import threading
import time
from typing import Any

from burnish.core.records import Message, Prompt
from burnish.engines.local.engine import LocalEngine
from burnish.engines.scheduling.model_pool import open_model_pool
from burnish.engines.scheduling.scheduler import Scheduler

WORDS = ("parcel", "refund", "lamp", "account", "password", "login", "order", "late", "red", "pear")


def first_token(scheduler: Scheduler, engine: LocalEngine, prompt: Prompt) -> float:
    """Seconds until the first text of an answer, which is then heard to its end."""
    done, first, begun = threading.Event(), list[float](), time.perf_counter()

    def tell(update: Any) -> None:
        first.append(time.perf_counter() - begun)
        if update.answer or update.error:
            done.set()

    scheduler.submit(engine, [engine.build_request(prompt)], [tell])
    done.wait()
    return first[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", help="a model or a run")
    parser.add_argument("--words", type=int, default=450, help="of the system prompt")
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    engine: Any = open_model_pool([options.source]).find(options.source)
    system = " ".join(WORDS[place * 7 % 10] for place in range(options.words))
    sides = {"kept": Scheduler(), "read": Scheduler(prefix_bytes=0)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(options.questions + 2):
        turns = (Message("system", system), Message("user", f"{number} {WORDS[number % 10]}?"))
        prompt = Prompt(turns, max_new_tokens=8)
        for name in sorted(sides, reverse=bool(number % 2)):
            seconds[name].append(first_token(sides[name], engine, prompt))
    tokens = engine.count_tokens(turns)
    for scheduler in sides.values():
        scheduler.close()
    kept, read = (statistics.median(seconds[name][2:]) for name in ("kept", "read"))
    found = {"tokens": tokens, "kept": kept, "read": read, "ratio": read / kept}
    print(
        json.dumps(found, indent=2)
        if options.json
        else f"Behind {tokens} tokens: first text after {kept:.3f} s where the beginning is kept, "
        f"{read:.3f} s where it is read again: {read / kept:.1f} times."
    )


if __name__ == "__main__":
    main()
