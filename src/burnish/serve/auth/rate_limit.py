"""How often a key may ask: a bucket a key that fills evenly over a minute."""

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from burnish.serve.auth.keys import Key


@dataclass(slots=True)
class Rates:
    """What is left to each key, in this process. A key without a limit is not counted."""

    left: dict[str, float] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, key: Key, now: float | None = None) -> Mapping[str, str]:
        """Count a request at `now` (seconds). Returns the headers that tell its client.

        With `retry-after` among them, the request is one too many.
        """
        if not key.per_minute:
            return {}
        now = time.monotonic() if now is None else now
        with self.lock:
            gone = now - self.seen.get(key.name, now)
            filled = self.left.get(key.name, key.per_minute) + gone * key.per_minute / 60
            left = min(filled, float(key.per_minute))
            self.seen[key.name], self.left[key.name] = now, left - 1 if left >= 1 else left
        headers = {
            "x-ratelimit-limit-requests": str(key.per_minute),
            "x-ratelimit-remaining-requests": str(int(self.left[key.name])),
        }
        if left < 1:
            headers["retry-after"] = str(math.ceil((1 - left) * 60 / key.per_minute))
        return headers
