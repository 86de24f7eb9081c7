"""Work in a child process that may be killed: a clean one, with none of the threads, sessions and
other things of the libraries that earlier tests of this process have used, which no fork outlives.

It forks from a server that has imported what is slow to import: a start takes a tenth of a second
and not ten.
"""

import atexit
import os
import subprocess
import sys
import threading
import traceback
from multiprocessing import get_context
from pathlib import Path

import cloudpickle
import torch

#: Its server starts with the first child, has imported what training needs, and forks from there.
_CLEAN = get_context("forkserver")
_CLEAN.set_forkserver_preload(
    ["burnish.train.run", "burnish.serve.run", "tests.train.conftest", "tests.serve.tuning"]
)


def in_child(work):
    """Run `work` in a child process. Returns its exit code, or minus the signal that killed it.

    It has this process's environment and working folder, its patches only if `work` makes them.
    """
    child = _begun(work)
    child.join()
    return child.exitcode


def _begun(work, environment=None, folder=None, *outputs):
    place = environment or dict(os.environ), folder or Path.cwd()
    child = _CLEAN.Process(target=_do, args=(cloudpickle.dumps(work), *place, *outputs))
    child.start()
    return child


def words(*said):
    """The command line, as it is typed behind `burnish`."""

    def work():
        from burnish.cli.main import main

        sys.argv = ["burnish", *map(str, said)]
        main()

    return work


class Program:
    """Work in a child whose words are read, with the names that `subprocess.Popen` has for it."""

    def __init__(self, work, environment=None, folder=None):
        ends = [_CLEAN.Pipe(duplex=False) for _ in range(2)]
        self._child = _begun(work, environment, folder, *(theirs for _, theirs in ends))
        self.pid = self._child.pid
        self.stdout, self.stderr = (os.fdopen(os.dup(ours.fileno())) for ours, _ in ends)
        for end in ends:
            for side in end:
                side.close()

    def poll(self):
        return self._child.exitcode

    @property
    def returncode(self):
        return self.poll()

    def wait(self, timeout=None):
        self._child.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("burnish", timeout)
        return self.returncode

    def send_signal(self, how):
        if self.poll() is None:
            os.kill(self.pid, how)

    def kill(self):
        self._child.kill()

    def communicate(self, timeout=None):
        """All that it says until it ends."""
        said = []
        reader = threading.Thread(target=lambda: said.append(self.stderr.read()))
        reader.start()
        out = self.stdout.read()
        reader.join()
        self.wait(timeout)
        self.close()
        return out, said[0]

    def close(self):
        self.stdout.close()
        self.stderr.close()


def run_words(*said, environment=None, folder=None, timeout=240):
    """A finished `burnish` command, as `subprocess.run` gives it."""
    program = Program(words(*said), environment, folder)
    late = threading.Timer(timeout, program.kill)
    late.start()
    out, err = program.communicate()
    late.cancel()
    return subprocess.CompletedProcess(said, program.returncode, out, err)


def _do(work, environment, folder, *outputs):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if "OMP_NUM_THREADS" in environment:  # which is read when torch loads
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    for number, output in enumerate(outputs, 1):
        os.dup2(output.fileno(), number)
        output.close()
    code = 70
    try:
        code = cloudpickle.loads(work)() or 0
        threading._shutdown()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
