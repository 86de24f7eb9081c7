"""`python -m burnish.train.worker RANK SIZE PORT`: a worker process of a training run.

`burnish train` starts it. It writes no file and prints nothing but the error that it dies of.
"""

import sys

from burnish.core.settings import silence_library_hints
from burnish.train.distributed.launch import join_main
from burnish.train.run import train_as_worker


def main(rank: str, size: str, port: str) -> None:
    """Train until the main process has finished."""
    silence_library_hints()
    with join_main(int(rank), int(size), int(port)) as process_group:
        train_as_worker(process_group)


if __name__ == "__main__":
    main(*sys.argv[1:])
