"""How long one answer takes when it is asked alone: what a single user waits for."""

import time
from collections.abc import Sequence

from burnish.core.records import Prompt
from burnish.engines.protocol import Engine

#: Questions asked alone, at most; and the seconds after which no further one is begun.
_QUESTIONS, _SECONDS, _LEAST = 16, 15.0, 3


def latencies(engine: Engine, prompts: Sequence[Prompt]) -> list[float]:
    """Seconds of each of a few prompts, spread over all, asked one at a time.

    Nothing is shared between them and none waits for a batch. The first one warms up and isn't
    counted.
    """
    stride = max(len(prompts) // _QUESTIONS, 1)
    some = [*prompts[::stride]][:_QUESTIONS]
    engine.answer(some[:1], batch_size=1)
    found: list[float] = []
    begun = time.monotonic()
    for prompt in some:
        before = time.perf_counter()
        engine.answer([prompt], batch_size=1)
        found.append(time.perf_counter() - before)
        if len(found) >= _LEAST and time.monotonic() - begun > _SECONDS:
            break
    return found
