"""`serve` as a process of its own: it says where it is, and ends only when what began is done."""

import re
import signal
import stat
import subprocess
import sys
import threading

import openai
import pytest

from burnish.core.recipe.serve import Serve
from burnish.serve.run import PortTaken, base_url, serve

PROGRAM = (
    "from burnish.core.progress import LineReporter, set_reporter\n"
    "from burnish.core.recipe.serve import Serve\n"
    "from burnish.serve.run import serve\n"
    "set_reporter(LineReporter())\n"
    "serve(['tiny'], Serve(port=0), {'mine': 'tiny'})\n"
)


@pytest.fixture
def process(tiny, monkeypatch):
    monkeypatch.delenv("BURNISH_API_KEY", raising=False)
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=subprocess.PIPE, text=True)
    yield program
    program.kill()
    program.wait()
    program.stderr.close()


def read_until(process, pattern):
    """What the pattern finds in the program's words; a program that never says it is ended."""
    patience = threading.Timer(180, process.kill)
    patience.start()
    try:
        for line in process.stderr:
            if found := re.search(pattern, line):
                return found.group(1)
    finally:
        patience.cancel()
    raise AssertionError(f"{pattern} was never said")


@pytest.mark.parametrize(
    "stop", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM]
)
def test_a_stopped_server_finishes_the_answer_that_it_has_begun(process, workspace, stop):
    key = read_until(process, r"API key, shown once .*: (bk-\S+)")
    address = read_until(process, r"Serving tiny, mine at (\S+)")
    client = openai.OpenAI(base_url=address, api_key=key, max_retries=0)
    stream = client.chat.completions.create(
        model="mine",
        messages=[{"role": "user", "content": "red"}],
        stream=True,
        temperature=0,
        max_tokens=200,
    )
    chunks = [next(iter(stream))]

    process.send_signal(stop)
    chunks += list(stream)

    assert chunks[-1].choices[0].finish_reason in ("length", "stop")
    assert process.wait(30) in (0, -stop)
    assert "Traceback" not in process.stderr.read()
    assert stat.S_IMODE((workspace / "keys.json").stat().st_mode) == 0o600


def test_a_port_that_is_taken_says_so(tiny):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortTaken, match="--port"):
        serve(["tiny"], Serve(port=taken.getsockname()[1]))


def test_an_address_is_one_that_clients_take():
    assert base_url("127.0.0.1", 8000) == "http://127.0.0.1:8000/v1"
    assert base_url("::1", 8000) == "http://[::1]:8000/v1"


def test_a_self_test_comes_before_the_first_request(tiny, workspace):
    program = subprocess.Popen(
        [sys.executable, "-c", "from burnish.cli.main import main; main()",
         "serve", "tiny", "--port", "0", "--self-test"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert int(read_until(program, r"tiny: (\d+) answers in every order and mix")) > 300
        assert read_until(program, r"Serving tiny at (\S+)")
    finally:
        program.kill()
        program.wait()
        program.stderr.close()
