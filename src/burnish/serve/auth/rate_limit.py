"""How often a key may ask: a bucket a key that fills evenly over a minute."""

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from burnish.serve.auth.keys import ApiKey


@dataclass(slots=True)
class RateLimiter:
    """What is left to each key, in this process. A key without a limit is not counted."""

    remaining: dict[str, float] = field(default_factory=dict)
    updated_at: dict[str, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, key: ApiKey, now: float | None = None) -> Mapping[str, str]:
        """Count a request at `now` (seconds). Returns the headers that tell its client.

        With `retry-after` among them, the request is one too many.
        """
        if not key.per_minute:
            return {}
        now = time.monotonic() if now is None else now
        with self.lock:
            gone = now - self.updated_at.get(key.name, now)
            filled = self.remaining.get(key.name, key.per_minute) + gone * key.per_minute / 60
            left = min(filled, float(key.per_minute))
            self.updated_at[key.name], self.remaining[key.name] = (
                now,
                left - 1 if left >= 1 else left,
            )
        headers = {
            "x-ratelimit-limit-requests": str(key.per_minute),
            "x-ratelimit-remaining-requests": str(int(self.remaining[key.name])),
        }
        if left < 1:
            headers["retry-after"] = str(math.ceil((1 - left) * 60 / key.per_minute))
        return headers
