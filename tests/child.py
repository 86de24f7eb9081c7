"""Work in a child process that may be killed: a clean one, with none of the threads, sessions and
other things of the libraries that earlier tests of this process have used, which no fork outlives.
"""

import os
import sys
from multiprocessing import get_context

import cloudpickle

#: Its server starts with the first child, has imported what training needs, and forks from there.
_CLEAN = get_context("forkserver")
_CLEAN.set_forkserver_preload(["burnish.train.run", "tests.train.conftest"])


def in_child(work):
    """Run `work` in a child process. Returns its exit code, or minus the signal that killed it.

    It has this process's environment and working folder, its patches only if `work` makes them.
    """
    place = dict(os.environ), os.getcwd()
    child = _CLEAN.Process(target=_do, args=(cloudpickle.dumps(work), *place))
    child.start()
    child.join()
    return child.exitcode


def _do(work, environment, folder):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    code = 70
    try:
        code = cloudpickle.loads(work)() or 0
    finally:
        sys.stdout.flush()
        os._exit(code)
