"""The schema of a client costs a bounded amount of time and memory, and never the server's own."""

import os
import threading

import pytest

from burnish.engines.local import grammar_process
from burnish.engines.local.grammar import (
    MAX_SCHEMA_DEPTH,
    MAX_SCHEMA_PATTERNS,
    BadSchema,
    grammar_from_schema,
)
from burnish.engines.local.grammar_process import SchemaCompilers, SchemaTooHard

#: The intersection of these has exponentially many states: it never ends compiling.
ENDLESS = {
    "allOf": [{"type": "string", "pattern": f".*a.{{{number}}}b.*"} for number in range(24)],
}


@pytest.fixture
def compilers():
    """Children of this test, with half a second for a schema."""
    opened = SchemaCompilers(cpu_seconds=0.5)
    yield opened
    opened.close()


def nested(levels):
    schema = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def test_a_schema_that_never_ends_compiling_is_refused_with_the_reason(monkeypatch, compilers):
    monkeypatch.setattr("burnish.engines.local.grammar.COMPILERS", compilers)

    with pytest.raises(BadSchema, match=r"0\.5 seconds of processor time"):
        grammar_from_schema(ENDLESS)


def test_schemas_are_compiled_while_another_one_does_not_end(monkeypatch, compilers):
    monkeypatch.setattr("burnish.engines.local.grammar.COMPILERS", compilers)
    refused = []

    def ask_endless():
        try:
            grammar_from_schema(ENDLESS)
        except BadSchema as error:
            refused.append(error)

    hostile = threading.Thread(target=ask_endless)
    hostile.start()
    while not refused:
        assert "json_schema" in grammar_from_schema({"type": "integer"})
    hostile.join()


def test_a_child_that_takes_too_much_memory_ends_and_the_next_schema_is_compiled():
    small = SchemaCompilers(cpu_seconds=60, memory_bytes=96 * 2**20)
    properties = ",".join(f'"key{number}":{{"type":"string"}}' for number in range(200_000))

    with pytest.raises(SchemaTooHard, match="96 MiB of memory"):
        small.compile(f'{{"type":"object","properties":{{{properties}}}}}', False)

    assert "grammar" in small.compile('{"type":"integer"}', False)
    small.close()


def test_a_child_that_was_killed_is_replaced(compilers):
    compilers.compile('{"type":"integer"}', False)
    (child,) = compilers.idle
    child.kill()
    child.wait()

    assert "grammar" in compilers.compile('{"type":"integer"}', False)


def test_a_child_sees_no_variable_of_the_environment(compilers, monkeypatch):
    monkeypatch.setenv("BURNISH_API_KEY", "secret")
    compilers.compile('{"type":"integer"}', False)
    (child,) = compilers.idle

    with open(f"/proc/{child.pid}/environ", "rb") as variables:
        assert b"secret" not in variables.read()


def test_a_child_ends_with_the_process_that_started_it(compilers):
    compilers.compile('{"type":"integer"}', False)
    (child,) = compilers.idle

    compilers.close()

    assert child.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (nested(MAX_SCHEMA_DEPTH), "levels deep"),
        ({"enum": ["x" * 300_000]}, "characters"),
        (
            {"properties": {f"k{n}": {"pattern": "a"} for n in range(MAX_SCHEMA_PATTERNS + 1)}},
            "regular expressions",
        ),
    ],
)
def test_a_schema_that_is_too_large_reaches_no_child(monkeypatch, schema, reason):
    monkeypatch.setattr(grammar_process.SchemaCompilers, "compile", None)

    with pytest.raises(BadSchema, match=reason):
        grammar_from_schema(schema)
