"""Progress with time left, on stderr; silent unless a command (or a caller) asks for it.

Long work calls `with progress("Fine-tuning", total=120) as bar: bar.advance(note="loss 1.2")` and
doesn't know which reporter listens.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Bar(Protocol):
    """A progress bar, as long work sees it."""

    def advance(self, steps: float = 1, note: str = "") -> None:
        """Record `steps` more as done; `note` is shown behind the bar."""


class Reporter(Protocol):
    """Shows progress."""

    def start(self, label: str, total: float) -> Bar:
        """Begin a piece of work of `total` steps."""

    def stop(self, bar: Bar) -> None:
        """End a piece of work, finished or not."""

    def say(self, text: str) -> None:
        """Show one line."""


class _Silent:
    """The default reporter: shows nothing."""

    def advance(self, steps: float = 1, note: str = "") -> None:
        """Do nothing."""

    def start(self, label: str, total: float) -> Bar:
        """Return a bar that shows nothing."""
        return self

    def stop(self, bar: Bar) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""


_SILENT = _Silent()
_reporter: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


@contextmanager
def progress(label: str, total: float) -> Iterator[Bar]:
    """Yield a bar for one piece of work of `total` steps, shown by the current reporter."""
    reporter = _reporter.get() or _SILENT
    bar = reporter.start(label, total)
    try:
        yield bar
    finally:
        reporter.stop(bar)


def say(text: str) -> None:
    """Send one line to the current reporter: a decision that was inferred, a phase that begins."""
    (_reporter.get() or _SILENT).say(text)


def set_reporter(reporter: Reporter) -> None:
    """Send all progress of this context to `reporter`."""
    _reporter.set(reporter)


class LineReporter:
    """Progress as plain lines on stderr, one every `every` seconds: for logs and `make`."""

    def __init__(self, every: float = 10.0) -> None:
        self.every = every

    def start(self, label: str, total: float) -> Bar:
        """Begin a piece of work; its first line comes after `every` seconds."""
        return _LineBar(label, total, self.every)

    def stop(self, bar: Bar) -> None:
        """Print the time taken."""
        if isinstance(bar, _LineBar):
            bar.show(final=True)

    def say(self, text: str) -> None:
        """Print the line at once."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


class _LineBar:
    def __init__(self, label: str, total: float, every: float) -> None:
        self.label, self.total, self.every = label, total, every
        self.done, self.note = 0.0, ""
        self.begun = self.shown = time.monotonic()

    def advance(self, steps: float = 1, note: str = "") -> None:
        """Count, and print a line if the last one is `every` seconds old."""
        self.done += steps
        self.note = note or self.note
        if time.monotonic() - self.shown >= self.every:
            self.show()

    def show(self, final: bool = False) -> None:
        """Print label, share done, time so far, time left, note."""
        self.shown = time.monotonic()
        spent = self.shown - self.begun
        left = spent / self.done * max(self.total - self.done, 0) if self.done else 0.0
        times = (
            f"{format_clock(spent)}"
            if final
            else f"{format_clock(spent)}, {format_clock(left)} left"
        )
        share = min(self.done / self.total, 1) if self.total else 1
        sys.stderr.write(f"{self.label}: {share:.0%} ({times}) {self.note}".rstrip() + "\n")
        sys.stderr.flush()


def format_clock(seconds: float) -> str:
    """Format seconds as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
