"""Rate limits: a token bucket for each key, refilled evenly over a minute."""

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from burnish.serve.auth.keys import ApiKey


@dataclass(slots=True)
class RateLimiter:
    """The requests left to each key, in this process. A key without a limit is not counted."""

    remaining: dict[str, float] = field(default_factory=dict)
    updated_at: dict[str, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, key: ApiKey, now: float | None = None) -> Mapping[str, str]:
        """Count a request at `now` (seconds). Returns the headers for its response.

        With `retry-after` among them, the request exceeds the limit.
        """
        if not key.per_minute:
            return {}
        now = time.monotonic() if now is None else now
        with self.lock:
            elapsed = now - self.updated_at.get(key.name, now)
            refilled = self.remaining.get(key.name, key.per_minute) + elapsed * key.per_minute / 60
            left = min(refilled, float(key.per_minute))
            self.updated_at[key.name] = now
            self.remaining[key.name] = left - 1 if left >= 1 else left
        headers = {
            "x-ratelimit-limit-requests": str(key.per_minute),
            "x-ratelimit-remaining-requests": str(int(self.remaining[key.name])),
        }
        if left < 1:
            headers["retry-after"] = str(math.ceil((1 - left) * 60 / key.per_minute))
        return headers
