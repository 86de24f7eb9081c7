"""One object that cannot be worked on, or one organization, never keeps another's waiting."""

import time

import pytest

from burnish.serve.auth.tenant import as_organization
from burnish.serve.background.periodic import PeriodicThread, PeriodicThreads
from burnish.serve.background.tasks import MAX_FAILURES, MAX_STARTS, BackgroundTask, BackgroundTasks
from burnish.serve.store.objects import StoredObjects
from burnish.serve.store.schema import Database, StoredObject, sqlite_url

SECONDS = 30


class Panic(BaseException):
    """What a library in Rust raises when it gives up: no Exception."""


@pytest.fixture
def objects(tmp_path):
    """The objects of an empty store."""
    store = Database(sqlite_url(tmp_path))
    yield StoredObjects(store)
    store.close()


def add(objects, name, organization):
    with as_organization(organization):
        objects.add(StoredObject(id=name, kind="parcel", status="new", body={}))


def status(objects, name):
    return objects.find("parcel", name).status


def wait_for(objects, name, *statuses):
    end = time.monotonic() + SECONDS
    while status(objects, name) not in statuses:
        assert time.monotonic() < end, status(objects, name)
        time.sleep(0.02)


class Worker:
    """Sets each object to `done`, unless a test says what becomes of it instead."""

    def __init__(self, objects, outcomes=None, resumable=False, **seconds):
        self.objects, self.outcomes, self.order = objects, outcomes or {}, []
        self.reasons = {}
        task = BackgroundTask("parcel", ("new",), self.run, self.fail, resumable)
        self.tasks = BackgroundTasks(objects.store, {"parcel": task}, tick=0.01, **seconds)

    def run(self, record, turn):
        self.order.append(record.id)
        if outcome := self.outcomes.get(record.id):
            return outcome(turn)
        self.end(record, "done")
        return None

    def fail(self, record, reason):
        self.reasons[record.id] = reason
        self.end(record, "failed")

    def end(self, record, status):
        with self.objects.editing("parcel", record.id) as row:
            row.status = status

    def __enter__(self):
        self.tasks.start()
        return self

    def __exit__(self, *_):
        self.tasks.stop()


def raises(fault):
    def outcome(turn):
        raise fault

    return outcome


@pytest.mark.parametrize(
    "fault", [KeyError("/secret/path"), Panic(), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no")]
)
def test_an_object_that_raises_fails_after_its_tries_and_others_do_not_wait(
    objects, fault, monkeypatch
):
    monkeypatch.setattr("burnish.serve.background.tasks._RETRY_SECONDS", 0.05)
    add(objects, "poison", "a")
    add(objects, "good", "a")

    with Worker(objects, {"poison": raises(fault)}) as worker:
        wait_for(objects, "good", "done")
        wait_for(objects, "poison", "failed")

    assert worker.order.count("poison") == MAX_FAILURES
    assert type(fault).__name__ in worker.reasons["poison"]
    assert "secret" not in worker.reasons["poison"]


def test_a_full_disk_is_not_the_objects_fault(objects, monkeypatch):
    monkeypatch.setattr("burnish.serve.background.tasks._RETRY_SECONDS", 0.02)
    add(objects, "parcel", "a")

    with Worker(objects, {"parcel": raises(OSError(28, "No space left on device"))}) as worker:
        end = time.monotonic() + SECONDS
        while len(worker.order) < MAX_FAILURES + 2 and time.monotonic() < end:
            time.sleep(0.02)

    assert status(objects, "parcel") == "new" and worker.reasons == {}


def test_an_object_that_ends_the_server_each_time_fails(objects):
    add(objects, "killer", "a")
    with objects.editing("parcel", "killer") as row:
        row.body = {"starts": MAX_STARTS}

    with Worker(objects) as worker:
        wait_for(objects, "killer", "failed")

    assert worker.order == [] and "The server ended" in worker.reasons["killer"]


def test_organizations_take_turns(objects):
    for number in range(4):
        add(objects, f"many{number}", "a")
    add(objects, "few0", "b")
    add(objects, "few1", "b")

    with Worker(objects) as worker:
        wait_for(objects, "many3", "done")

    assert worker.order == ["many0", "few0", "many1", "few1", "many2", "many3"]


def test_an_object_that_has_to_wait_is_given_back_and_taken_again(objects):
    add(objects, "slow", "a")
    add(objects, "quick", "a")
    waits = {"slow": lambda turn: 0.2}

    with Worker(objects, waits) as worker:
        wait_for(objects, "quick", "done")
        waits.clear()
        wait_for(objects, "slow", "done")

    assert worker.order[:2] == ["slow", "quick"]


def test_a_long_task_stops_for_another_organization_and_goes_on_later(objects):
    add(objects, "long", "a")
    stops = []

    def work(turn):
        while not turn.should_stop():
            time.sleep(0.01)
        stops.append(True)

    outcomes = {"long": work}
    with Worker(objects, outcomes, resumable=True, turn=0.05) as worker:
        time.sleep(0.3)
        assert not stops, "nobody else waits"
        add(objects, "short", "b")
        wait_for(objects, "short", "done")
        del outcomes["long"]
        add(objects, "short2", "b")
        wait_for(objects, "long", "done")

    assert worker.order[:2] == ["long", "short"]


def test_a_thread_that_keeps_failing_shows_and_goes_on(monkeypatch):
    monkeypatch.setattr("burnish.serve.background.periodic._PAUSE", 0.01)
    threads, calls, broken = PeriodicThreads(), [], [True]

    def work():
        calls.append(1)
        if broken:
            raise Panic

    threads.start(PeriodicThread("batch", work, 0.01))
    end = time.monotonic() + SECONDS
    while threads.failing() != ["batch"] and time.monotonic() < end:
        time.sleep(0.01)
    assert threads.failing() == ["batch"]

    broken.clear()
    while threads.failing() and time.monotonic() < end:
        time.sleep(0.01)
    assert threads.failing() == []
    threads.stop()
