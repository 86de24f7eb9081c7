"""Hostile sources in a real sandbox: what they reach for is not there, and bombs end."""

import pytest

from burnish.evaluate.sandbox import sandbox
from burnish.evaluate.sandbox import self_test as sandbox_proof
from burnish.evaluate.sandbox.sandbox import (
    GraderFailed,
    Sandbox,
    SandboxLimits,
    SandboxUnavailable,
)
from burnish.evaluate.sandbox.self_test import run_self_test, secrets_of
from tests.fixtures.bubblewrap import needs_sandbox

pytestmark = needs_sandbox

SAMPLE = {"output_text": "red pear"}
SMALL = SandboxLimits(seconds=20, memory=2**30, disk=2**20)


def grade(body, item=None, limits=SMALL, before="import ctypes, os, socket, sys"):
    with Sandbox(f"{before}\ndef grade(sample, item):\n    {body}", limits) as inside:
        return inside.grade(SAMPLE, item or {})


def test_a_grader_sees_the_sample_and_the_item_and_returns_a_number():
    assert grade("return sample['output_text'] == item['wanted']", {"wanted": "red pear"}) == 1
    assert grade("import numpy; return numpy.float32(len(sample['output_text']) / 4)") == 2


def test_a_process_stays_for_the_next_answer_and_one_that_died_is_replaced():
    source = "import os\nn = 0\ndef grade(sample, item):\n global n\n n += 1\n return n"
    with Sandbox(source + " if item['go'] else os._exit(1)") as inside:
        assert [inside.grade({}, {"go": 1}) for _ in range(3)] == [1, 2, 3]
        with pytest.raises(GraderFailed, match="ended without an answer"):
            inside.grade({}, {"go": 0})
        assert inside.grade({}, {"go": 1}) == 1


HOME = "/proc", "/etc", "/home", "/var", "/sys", "/usr/bin", "/run"


def test_files_processes_and_the_environment_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    secret = tmp_path / "burnish.db"
    secret.write_text("secret")

    assert grade("return sum(map(os.path.exists, item['at']))", {"at": [str(secret), *HOME]}) == 1
    assert grade("return len(os.listdir('/etc'))") == 1  # ld.so.cache
    assert grade("return 'sk-secret' in str(os.environ)") == 0
    assert grade("return os.getpid() < 5 and os.getppid() <= 1") == 1
    with pytest.raises(GraderFailed, match="ProcessLookupError"):
        grade("return os.kill(-1, 9)")
    with pytest.raises(GraderFailed, match="No such file"):
        grade(f"return len(open({str(secret)!r}).read())")


@pytest.mark.parametrize(
    "attack",
    [
        "socket.create_connection(('127.0.0.1', 80), 1)",
        "socket.socket(socket.AF_UNIX)",
        "os.fork()",
        "os.posix_spawn(sys.executable, ['p'], {})",
        "os.system('true') and open('/bin/sh')",
        "__import__('subprocess').run(['/bin/true'])",
        "__import__('_thread').start_new_thread(print, ())",
        "os.setuid(0)",
        "open('/tmp/../x', 'w')",
        "open('/dev/shm/x', 'w')",
        "os.unlink(os.__file__)",
        "os.mkdir(os.path.dirname(os.__file__) + '/x')",
        "os.chroot('/tmp')",
        "os.memfd_create('x')",
        "bytearray(1 << 31)",
        "open('/tmp/big', 'wb').write(bytes(1 << 22))",
        "[os.dup(0) for _ in range(999)]",
        "ctypes.CDLL(None, use_errno=True).unshare(0x10000000) and open('/none')",
        "sys.exit()",
        "float('nan')",
        "10 ** 9999",
        "'a text'",
        "'x' * 999_999",
        "(lambda f: f(f))(lambda f: f(f))",
    ],
)
def test_an_attack_is_an_error_of_the_grader(attack):
    with pytest.raises(GraderFailed):
        grade(f"return {attack}")


@pytest.mark.parametrize(
    ("bomb", "why"),
    [
        ("while True: pass", "after 0.5 seconds"),
        ("while True: os.write(item['fd'], b'x' * 9999)", "without an answer"),
        ("while True:\n        try: os.fork()\n        except OSError: pass", "after 0.5 seconds"),
        ("os.execv(sys.executable, ['p', '-c', 'while 1: pass'])", "after 0.5 seconds"),
    ],
)
def test_a_bomb_ends(bomb, why):
    with pytest.raises(GraderFailed, match=why):
        grade(bomb, {"fd": 4}, SandboxLimits(0.5, 2**30, 2**20))


def test_a_source_that_never_ends_loading_or_defines_nothing_is_said():
    for source, why in [
        ("while True: pass", "after 0.5 seconds"),
        ("def other(): pass", "no function grade"),
        ("def grade(:", "SyntaxError"),
        ("raise SystemExit", "SystemExit"),
        ("(" * 100_000, "MemoryError|SyntaxError|without an answer"),
    ]:
        with (
            pytest.raises(GraderFailed, match=why),
            Sandbox(source, SandboxLimits(0.5, 2**30)) as inside,
        ):
            inside.load()


def test_the_proof_passes_here(tmp_path):
    (tmp_path / "burnish.db").write_text("")
    run_self_test(secrets_of(tmp_path), SMALL)


@pytest.mark.parametrize(
    ("hole", "what"),
    [
        ("--setenv OPENAI_API_KEY sk", "the environment"),
        ("--size 4000000 --tmpfs /tmp", "more disk"),
        ("no clock", "a bomb of time"),
    ],
)
def test_the_proof_finds_a_hole(tmp_path, monkeypatch, hole, what):
    walls = sandbox._walls
    if hole == "no clock":
        monkeypatch.setattr(sandbox_proof, "BOMBS", {"time": "def grade(a, b): return 0"})
    else:
        monkeypatch.setattr(sandbox, "_walls", lambda limits: [*walls(limits), *hole.split()])

    with pytest.raises(SandboxUnavailable, match=what):
        run_self_test(secrets_of(tmp_path), SMALL)


def test_the_proof_finds_the_store_among_the_libraries_and_a_missing_filter(tmp_path, monkeypatch):
    libraries = sandbox._libraries
    monkeypatch.setattr(sandbox, "_libraries", lambda: [*libraries(), str(tmp_path)])
    with pytest.raises(SandboxUnavailable, match="a file of the server"):
        run_self_test(secrets_of(tmp_path), SMALL)

    monkeypatch.setattr(sandbox, "_libraries", libraries)
    monkeypatch.setattr("burnish.evaluate.sandbox.seccomp.DENIED_CALLS", ())
    with pytest.raises(SandboxUnavailable, match="a child process"):
        run_self_test(secrets_of(tmp_path), SMALL)


def test_a_machine_without_bubblewrap_is_told_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")

    with pytest.raises(SandboxUnavailable) as refused:
        run_self_test(())

    assert "apt-get install bubblewrap" in refused.value.fix
