"""`python -m burnish.train.worker RANK SIZE PORT`: a process that trains for a leader.

`burnish train` starts it. It writes no file and shows nothing; what it says, it says when it dies.
"""

import sys

from burnish.core.settings import hush
from burnish.train.distributed.launch import followed
from burnish.train.run import follow


def main(rank: str, size: str, port: str) -> None:
    """Train until the leader has what it needs."""
    hush()
    with followed(int(rank), int(size), int(port)) as team:
        follow(team)


if __name__ == "__main__":
    main(*sys.argv[1:])
