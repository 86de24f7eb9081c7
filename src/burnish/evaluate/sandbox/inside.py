"""The program inside the sandbox: `python -c` of this file's text; burnish isn't available there.

Lines of JSON come on stdin: first the source and the limits, then one request each. Each gets a
line: {"reward": ...} or {"error": ...}. The reader trusts none of it.
"""

import json
import os
import resource
import sys
import traceback
from typing import Any

_MAX_OPEN_FILES = 64


def _open_channels() -> tuple[Any, Any, dict[str, Any]]:
    """Open the channels where the source can't reach them by accident, and apply the limits."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    setup = json.loads(requests.readline())
    for kind, limit in (
        (resource.RLIMIT_AS, setup["memory"]),
        (resource.RLIMIT_FSIZE, setup["disk"]),
        (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
    return requests, replies, setup


def _format_error(error: BaseException) -> str:
    """Format an error for the grader's author: with the lines of the source."""
    if isinstance(error, MemoryError):
        return "MemoryError: the grader exceeded its memory limit"
    return "".join(traceback.format_exception(error, limit=-3))[-4000:]


def main() -> None:
    """Answer requests until stdin ends."""
    requests, replies, setup = _open_channels()
    namespace: dict[str, Any] = {"__name__": "grader"}
    grade, fault = None, ""
    try:
        exec(compile(setup["source"], "grader.py", "exec"), namespace)
        grade = namespace.get("grade")
        if not callable(grade):
            grade, fault = None, "the source defines no function grade(sample, item)"
    except BaseException as error:  # noqa: BLE001
        fault = _format_error(error)
    for line in requests:
        try:
            request = json.loads(line)
            sample, item = request.get("sample"), request.get("item")
            answer = {"reward": grade(sample, item) if grade and request else None}
            text = json.dumps({"error": fault} if fault else answer, default=float)
        except BaseException as error:  # noqa: BLE001
            text = json.dumps({"error": _format_error(error)})
        replies.write(text.encode() + b"\n")
        replies.flush()


if __name__ == "__main__":
    sys.path += sys.argv[1:]
    main()
