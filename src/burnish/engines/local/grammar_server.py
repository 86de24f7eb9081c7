"""The process in which the JSON Schemas of clients are compiled, within limits.

Run as a script, so that it starts without torch. Each line of its input is a request, `{"schema",
"compact"}`; each line of its output is a reply, `{"grammar"}` or `{"error"}`. It ends with its
input. A request that takes too much processor time ends it by SIGPROF, one that takes too much
memory by SIGABRT: the library need not cooperate.
"""

import json
import resource
import signal
import sys
from contextlib import suppress
from typing import Any

from llguidance import LLMatcher

#: White space between two parts of an answer: room for any style, but not for ever; or none of it.
_FLEXIBLE = {"whitespace_flexible": True, "whitespace_pattern": r"[ \n]{0,12}"}
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def compile_schema(schema: str, compact: bool) -> dict[str, str]:
    """Return the grammar of a JSON Schema, or the error that keeps it from being compiled."""
    matcher: Any = LLMatcher
    try:
        grammar = str(
            matcher.grammar_from_json_schema(schema, overrides=_COMPACT if compact else _FLEXIBLE)
        )
        wrong = str(matcher.validate_grammar(grammar))
    except (ValueError, RecursionError, MemoryError) as error:
        return {"error": f"{type(error).__name__}."}
    except BaseException as panic:
        # A panic of the library's Rust: it cannot quote some texts in its own errors. PyO3's class
        # cannot be imported, and is no Exception.
        if type(panic).__name__ != "PanicException":
            raise
        return {"error": "a part of it is of the wrong type."}
    return {"error": wrong[:500]} if wrong else {"grammar": grammar}


def main(cpu_seconds: float, memory_bytes: int) -> None:
    """Answer requests until standard input ends."""
    with suppress(ValueError, OSError):  # not every system can limit the address space
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        reply = compile_schema(request["schema"], request["compact"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
