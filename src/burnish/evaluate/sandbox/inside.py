"""What runs inside the sandbox: `python -c` of this file's text; nothing of burnish is there.

Lines of JSON come on stdin: first the source and the limits, then one question each. Each gets a
line: {"reward": ...} or {"error": ...}. Whoever reads them trusts none of it.
"""

import json
import os
import resource
import sys
import traceback
from typing import Any

_MAX_OPEN_FILES = 64


def _open_channels() -> tuple[Any, Any, dict[str, Any]]:
    """The channels as the source must not find them by accident, and what it may use."""
    asked, told = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    begun = json.loads(asked.readline())
    for kind, most in (
        (resource.RLIMIT_AS, begun["memory"]),
        (resource.RLIMIT_FSIZE, begun["disk"]),
        (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))
    return asked, told, begun


def _format_error(error: BaseException) -> str:
    """An error as its writer wants to read it: with the lines of the source."""
    if isinstance(error, MemoryError):
        return "MemoryError: the grader wanted more memory than it may have"
    return "".join(traceback.format_exception(error, limit=-3))[-4000:]


def main() -> None:
    """Answer until stdin ends."""
    asked, told, begun = _open_channels()
    known: dict[str, Any] = {"__name__": "grader"}
    grade, fault = None, ""
    try:
        exec(compile(begun["source"], "grader.py", "exec"), known)
        grade = known.get("grade")
        if not callable(grade):
            grade, fault = None, "the source defines no function grade(sample, item)"
    except BaseException as error:  # noqa: BLE001
        fault = _format_error(error)
    for line in asked:
        try:
            question = json.loads(line)
            sample, item = question.get("sample"), question.get("item")
            answer = {"reward": grade(sample, item) if grade and question else None}
            text = json.dumps({"error": fault} if fault else answer, default=float)
        except BaseException as error:  # noqa: BLE001
            text = json.dumps({"error": _format_error(error)})
        told.write(text.encode() + b"\n")
        told.flush()


if __name__ == "__main__":
    sys.path += sys.argv[1:]
    main()
