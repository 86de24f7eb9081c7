"""Which slot of an engine's process answers a request, and whether it may reuse what it holds.

A slot keeps the keys and values of its last prompt, so that a prompt that begins alike is answered
sooner. That time would tell one organization what another has asked: a slot reuses nothing of
another owner's.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class _Slot:
    number: int
    owner: str | None = None
    is_busy: bool = False
    used_at: int = 0


class SlotPool:
    """The slots of one process."""

    def __init__(self, count: int) -> None:
        self._slots = [_Slot(number) for number in range(count)]
        self._change = threading.Condition()
        self._uses = 0

    @contextmanager
    def take(self, owner: str) -> Iterator[tuple[int, bool]]:
        """Hold a slot, waiting for one: its number, and whether its last prompt was the owner's.

        A slot of the same owner is preferred, then the one that was not used for longest.
        """
        with self._change:
            while not (free := [slot for slot in self._slots if not slot.is_busy]):
                self._change.wait()
            own = [slot for slot in free if slot.owner == owner]
            slot = max(own, key=_last_use) if own else min(free, key=_last_use)
            may_reuse, slot.owner, slot.is_busy = bool(own), owner, True
            self._uses += 1
            slot.used_at = self._uses
        try:
            yield slot.number, may_reuse
        finally:
            with self._change:
                slot.is_busy = False
                self._change.notify()


def _last_use(slot: _Slot) -> int:
    return slot.used_at
