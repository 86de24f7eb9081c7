"""`python -m burnish.train.worker RANK SIZE PORT`: a process that trains for a leader.

`burnish train` starts it. It writes no file and shows nothing; what it says, it says when it dies.
"""

import sys

from burnish.core.settings import silence_library_hints
from burnish.train.distributed.launch import join_main
from burnish.train.run import train_as_worker


def main(rank: str, size: str, port: str) -> None:
    """Train until the leader has what it needs."""
    silence_library_hints()
    with join_main(int(rank), int(size), int(port)) as team:
        train_as_worker(team)


if __name__ == "__main__":
    main(*sys.argv[1:])
