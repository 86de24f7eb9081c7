"""Progress on a terminal: bars with time left, on stderr."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from burnish.core.progress import Bar


class ProgressBars:
    """A reporter (see core.progress) that draws with rich."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.screen: Progress | None = None
        self.open = 0

    def start(self, label: str, total: float) -> Bar:
        """Draw one more bar; the first one opens the screen."""
        if self.screen is None:
            self.screen = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
            )
            self.screen.start()
        self.open += 1
        return _Bar(self.screen, self.screen.add_task(label, total=total, note=""))

    def stop(self, bar: Bar) -> None:
        """The bar stays as it ended; the last one closes the screen."""
        self.open -= 1
        if self.screen is not None and self.open == 0:
            self.screen.stop()
            self.screen = None

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        (self.screen.console if self.screen else self.console).print(text, highlight=False)


class _Bar:
    def __init__(self, screen: Progress, task: TaskID) -> None:
        self.screen, self.task = screen, task

    def advance(self, steps: float = 1, note: str = "") -> None:
        """Move the bar; an empty note keeps the last one."""
        if note:
            self.screen.update(self.task, advance=steps, note=note)
        else:
            self.screen.update(self.task, advance=steps)
