"""Compile JSON Schemas of clients in child processes: one that is too hard ends its child only."""

import atexit
import json
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

#: Seconds of processor time for one schema; a schema of 400 properties takes 0.1.
CPU_SECONDS = 1.0
#: Bytes of address space of a child; it needs 60 MB when it is idle.
MEMORY_BYTES = 512 * 2**20
#: Seconds until a child is killed that neither answers nor uses its processor time.
_WALL_SECONDS = 60.0
#: Children that compile at once, and those that are kept for the next schema.
_MAX_CHILDREN, _MAX_IDLE = 4, 2
_SERVER = Path(__file__).with_name("grammar_server.py")


class SchemaTooHard(Exception):
    """A child has ended at one of its limits. The text says at which one."""


@dataclass(frozen=True, slots=True)
class SchemaCompilers:
    """A pool of warm children. `cpu_seconds` and `memory_bytes` limit the work on each schema."""

    cpu_seconds: float = CPU_SECONDS
    memory_bytes: int = MEMORY_BYTES
    idle: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _places: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_MAX_CHILDREN))

    def compile(self, schema: str, compact: bool) -> dict[str, str]:
        """Return `{"grammar"}` or `{"error"}` for the text of a schema. Raises SchemaTooHard."""
        request = json.dumps({"schema": schema, "compact": compact}).encode() + b"\n"
        with self._places:
            child = self._take()
            reply = _exchange(child, request)
            if reply:
                self._put_back(child)
                answer: dict[str, str] = json.loads(reply)
                return answer
            raise SchemaTooHard(self._limit_reached(child))

    def close(self) -> None:
        """End the children that are idle."""
        with self._lock:
            children = self.idle[:]
            self.idle.clear()
        for child in children:
            _end(child)

    def _take(self) -> subprocess.Popen[bytes]:
        """Return a child that runs, a new one where none is idle."""
        with self._lock:
            while self.idle:
                child = self.idle.pop()
                if child.poll() is None:
                    return child
                _end(child)
        # No variable of the environment is handed on: there are secrets among them.
        return subprocess.Popen(
            [sys.executable, "-I", str(_SERVER), str(self.cpu_seconds), str(self.memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            process_group=0,
        )

    def _put_back(self, child: subprocess.Popen[bytes]) -> None:
        with self._lock:
            if len(self.idle) < _MAX_IDLE:
                self.idle.append(child)
                return
        _end(child)

    def _limit_reached(self, child: subprocess.Popen[bytes]) -> str:
        code = _end(child)
        if code == -signal.SIGPROF:
            return f"it takes more than {self.cpu_seconds:g} seconds of processor time"
        if code == -signal.SIGKILL:
            return f"it takes more than {_WALL_SECONDS:g} seconds"
        return f"it takes more than {self.memory_bytes // 2**20} MiB of memory"


def _exchange(child: subprocess.Popen[bytes], request: bytes) -> bytes:
    """Send a line and return the line of the reply, empty if the child has ended."""
    assert child.stdin is not None and child.stdout is not None
    timer = threading.Timer(_WALL_SECONDS, child.kill)
    timer.daemon = True
    timer.start()
    try:
        child.stdin.write(request)
        child.stdin.flush()
        return child.stdout.readline()
    except OSError:
        return b""
    finally:
        timer.cancel()


def _end(child: subprocess.Popen[bytes]) -> int:
    """Close the pipes of a child, which ends it, and return its exit code."""
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # what was not sent cannot be sent any more
                continue
    try:
        return child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


#: The children of this process.
COMPILERS = SchemaCompilers()
atexit.register(COMPILERS.close)
