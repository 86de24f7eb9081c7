"""`python -m burnish.serve.trainer`: trains one job in a process of its own, and ends with it.

It may be killed at any moment: started again, it goes on from the run's last checkpoint. It holds a
lock, so that nobody else trains in the same folder, and ends when whoever started it has gone.
"""

import os
import sys
import threading
from pathlib import Path

from filelock import FileLock

from burnish.core.errors import BurnishError
from burnish.core.folders import write_json
from burnish.core.progress import Lines, listen
from burnish.core.recipe import load_recipe
from burnish.core.runs import Run
from burnish.serve.steps import export_steps
from burnish.train.run import train_in


def main(recipe: Path, run: Path, outcome: Path) -> int:
    """Train, or go on training. What a person has to mend is written to `outcome`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    listen(Lines())
    with FileLock(recipe.with_name("lock")):
        try:
            settings = load_recipe(recipe)
            train_in(run, settings)
            export_steps(Run(run), settings.train.keep_every)
        except BurnishError as error:
            write_json(outcome, {"what": error.what, "fix": error.fix})
            return error.code
    return 0


def _end_with_parent() -> None:
    """The parent holds the other end of stdin; it closes when the parent is gone, however."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(75)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:4])))
