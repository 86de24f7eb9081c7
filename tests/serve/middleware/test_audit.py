"""The audit is written beside the event loop: in order, whole, and whatever befalls its writer."""

import asyncio
import os
import threading

from burnish.core.journal import read_journal
from burnish.core.progress import set_reporter
from burnish.serve.middleware.observability import AuditLog


class Heard:
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def test_entries_are_in_order_and_no_disk_holds_the_loop_up(tmp_path, monkeypatch):
    audit, threads = AuditLog(tmp_path / "audit.jsonl"), set()
    real = os.fsync

    def fsync(descriptor):
        threads.add(threading.current_thread().name)
        real(descriptor)

    async def write_all():
        await asyncio.gather(*[audit.write(number=number) for number in range(50)])
        return threading.current_thread().name

    monkeypatch.setattr(os, "fsync", fsync)
    loop = asyncio.run(write_all())
    audit.close()

    assert [entry["number"] for entry in read_journal(tmp_path / "audit.jsonl")] == [*range(50)]
    assert threads and loop not in threads


def test_an_entry_whose_client_has_left_is_written_before_the_end(tmp_path, monkeypatch):
    audit, go, real = AuditLog(tmp_path / "audit.jsonl"), threading.Event(), os.fsync

    def slow(descriptor):
        go.wait(20)
        real(descriptor)

    async def leave():
        tasks = [asyncio.ensure_future(audit.write(number=number)) for number in range(5)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() for task in tasks)

    monkeypatch.setattr(os, "fsync", slow)
    asyncio.run(leave())
    go.set()
    audit.close()

    assert [entry["number"] for entry in read_journal(tmp_path / "audit.jsonl")] == [*range(5)]


def test_an_entry_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    audit, heard = AuditLog(tmp_path / "audit.jsonl"), Heard()
    set_reporter(heard)

    async def write(path):
        await audit.write(method="POST", path=path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    asyncio.run(write("/v1/files"))
    monkeypatch.undo()
    asyncio.run(write("/v1/batches"))
    audit.close()

    assert read_journal(tmp_path / "audit.jsonl")[-1]["path"] == "/v1/batches"
    assert "audit.jsonl lacks POST /v1/files: [Errno 28]" in heard.said[0]
