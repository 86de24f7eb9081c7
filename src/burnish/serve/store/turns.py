"""Turns: which organization's work comes next, so that none waits behind all of another's."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Turns:
    """The order in which organizations had their turns, in this process."""

    #: The number of each organization's last turn.
    last: dict[str, int] = field(default_factory=dict)

    def order(self, waiting: Iterable[tuple[str, int]]) -> list[str]:
        """Return organizations, each with the age (`seq`) of its oldest item, the next one first.

        That is the one whose turn was the longest ago, and among equals the one that has waited
        longest.
        """
        ordered = sorted(waiting, key=lambda item: (self.last.get(item[0], 0), item[1]))
        return [organization for organization, _ in ordered]

    def take(self, organization: str) -> None:
        """Record that an organization has its turn now."""
        self.last[organization] = max(self.last.values(), default=0) + 1
