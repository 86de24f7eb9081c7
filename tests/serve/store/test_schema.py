"""Rows of jobs on SQLite and on PostgreSQL: the same promises on both."""

import io
import threading
import time
from types import SimpleNamespace

import pytest
from sqlalchemy import select, text

from burnish.serve.auth.keys import CURRENT_KEY, ApiKey
from burnish.serve.auth.tenant import as_organization
from burnish.serve.background.tasks import BackgroundTask, BackgroundTasks
from burnish.serve.errors import RequestError
from burnish.serve.fine_tuning.worker import CHECKER, TRAINER, JobWorker
from burnish.serve.store.files import FileStore
from burnish.serve.store.jobs import JobEvent, Jobs, LeaseLost, fail_job, record_events
from burnish.serve.store.objects import StoredObjects
from burnish.serve.store.quota import QuotaExceeded
from burnish.serve.store.schema import (
    SCHEMA_VERSION,
    Database,
    Job,
    JobEventRow,
    StoredObject,
    StoreUnavailable,
)
from burnish.serve.store.workspace import Workspace


def new_job(jobs, number=0, **settings):
    fields = {
        "id": f"ftjob-{number:024}",
        "status": "queued",
        "model": "tiny",
        "base": "tiny",
        "seed": 1,
        "training_file": "file-1",
        "method": "supervised",
        "asked": {},
        "hyperparameters": {},
        "run": f"run-{number}",
    }
    return jobs.add(Job(**fields | settings), [JobEvent("created", "made")])


def told(jobs, job):
    return [
        event.key for event in reversed(jobs.page_children(JobEventRow, job.id, None, 10_000)[0])
    ]


def at_once(count, work):
    """Run `work(number)` in so many threads at the same moment."""
    gate = threading.Barrier(count)

    def go(number):
        gate.wait()
        work(number)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_many_servers_may_make_the_tables_at_once(url):
    stores = []

    at_once(6, lambda number: stores.append(Database(url)))

    assert len(stores) == 6
    for store in stores:
        with store.reading() as session:
            assert session.scalar(text("SELECT count(*) FROM schema_version")) == 1
        store.close()


def test_a_store_of_another_version_is_not_opened(url, store):
    with store.writing() as session:
        session.execute(text(f"UPDATE schema_version SET version = {SCHEMA_VERSION + 1}"))

    with pytest.raises(StoreUnavailable, match=f"schema {SCHEMA_VERSION + 1}"):
        Database(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "is invalid"),
        ("postgresql+psycopg://nobody@127.0.0.1:1/none", "cannot be opened"),
        ("sqlite:////nowhere/burnish.db", "cannot be opened"),
        ("oracle+oracledb://x", "needs the package"),
    ],
)
def test_a_store_that_cannot_be_opened_says_why(url, words):
    with pytest.raises(StoreUnavailable, match=words):
        Database(url)


def test_no_job_is_claimed_twice_however_many_ask_at_once(jobs):
    made = {new_job(jobs, number).id for number in range(12)}
    claimed = []

    def work(number):
        while job := jobs.claim(("queued",), f"worker-{number}", 60):
            claimed.append(job.id)

    at_once(6, work)

    assert sorted(claimed) == sorted(made)


def test_the_oldest_job_comes_first_and_only_in_the_states_that_are_asked_for(jobs):
    new_job(jobs, 1, status="paused")
    old, young = new_job(jobs, 2), new_job(jobs, 3)

    assert jobs.claim(("queued", "running"), "a", 60).id == old.id
    assert jobs.claim(("queued", "running"), "a", 60).id == young.id
    assert jobs.claim(("queued", "running"), "a", 60) is None


def test_a_dead_workers_job_is_taken_over_when_its_lease_is_out_and_not_before(jobs):
    job = new_job(jobs)
    assert jobs.claim(("queued",), "dead", 60).id == job.id
    assert jobs.claim(("queued",), "heir", 60) is None

    jobs.renew(["dead"], -1)

    assert jobs.claim(("queued",), "heir", 60).lives == 2


@pytest.mark.parametrize("jump", [-86400, 86400])
def test_a_clock_that_jumps_keeps_no_job_from_being_taken_over(jobs, monkeypatch, jump):
    job = new_job(jobs)
    jobs.claim(("queued",), "first", 60)
    monkeypatch.setattr("burnish.serve.store.jobs.time", SimpleNamespace(time=lambda: now + jump))
    now = time.time()

    assert jobs.claim(("queued",), "heir", 60).lives == 2
    assert jobs.claim(("queued",), "third", 60) is None
    with pytest.raises(LeaseLost), jobs.locked(job.id, "first"):
        pass
    with jobs.locked(job.id, "heir") as (_, mine):
        mine.status = "running"


@pytest.mark.parametrize("jump", [-86400, 86400])
def test_a_clock_that_jumps_keeps_no_errand_from_being_taken_over(store, monkeypatch, jump):
    StoredObjects(store).add(StoredObject(id="batch_1", kind="batch", status="validating", body={}))
    errand = BackgroundTask("batch", ("validating",), run=None, fail=None)
    errands = BackgroundTasks(store, {}, lease=60)
    assert errands._claim(errand, "first").worker == "first"
    assert errands._claim(errand, "early") is None
    monkeypatch.setattr(
        "burnish.serve.background.tasks.time", SimpleNamespace(time=lambda: now + jump)
    )
    now = time.time()

    assert errands._claim(errand, "heir").worker == "heir"
    assert errands._claim(errand, "third") is None


def test_a_lease_that_is_renewed_holds(jobs):
    new_job(jobs)
    jobs.claim(("queued",), "alive", 0.2)
    jobs.renew(["alive"], 60)
    time.sleep(0.3)

    assert jobs.claim(("queued",), "heir", 60) is None


def test_a_worker_that_lost_its_job_changes_nothing_any_more(jobs):
    job = new_job(jobs)
    jobs.claim(("queued",), "slow", -1)
    jobs.claim(("queued",), "heir", 60)

    with pytest.raises(LeaseLost), jobs.locked(job.id, "slow") as (session, mine):
        fail_job(session, mine, "x", "never")
    jobs.release(job.id, "slow")
    jobs.renew(["slow"], 1000)

    found = jobs.find(job.id)
    assert found.worker == "heir" and found.status == "queued" and told(jobs, job) == ["created"]


def test_an_event_is_told_once_however_often_it_is_noticed(jobs):
    job = new_job(jobs)
    jobs.claim(("queued",), "a", 60)
    seen = [JobEvent(f"step-{n}", f"Step {n}", type="metrics", data={"step": n}) for n in range(9)]

    for end in (3, 2, 7, 9):
        with jobs.locked(job.id, "a") as (session, mine):
            record_events(session, mine, seen[:end])

    assert told(jobs, job) == ["created", *[f"step-{n}" for n in range(9)]]


def test_what_fails_half_way_leaves_nothing(jobs):
    job = new_job(jobs)
    jobs.claim(("queued",), "a", 60)

    with pytest.raises(RuntimeError), jobs.locked(job.id, "a") as (session, mine):
        mine.status = "succeeded"
        record_events(session, mine, [JobEvent("model", "made")])
        session.flush()
        raise RuntimeError

    assert jobs.find(job.id).status == "queued" and told(jobs, job) == ["created"]


def test_cancel_and_finish_at_the_same_moment_cannot_both_win(jobs):
    for number in range(8):
        job = new_job(jobs, number, status="running")
        jobs.claim(("running",), "a", 60)

        def work(who, job=job):
            if who:
                with jobs.locked(job.id, "a") as (session, mine):
                    if mine.status == "running":
                        mine.status, mine.fine_tuned_model = "succeeded", f"ft:{job.id}"
            else:
                try:
                    jobs.transition(job.id, "cancel")
                except RequestError:
                    return

        at_once(2, work)

        found = jobs.find(job.id)
        assert (found.status == "succeeded") == bool(found.fine_tuned_model)
        assert ("cancel-1" in told(jobs, job)) == (found.status == "cancelled")


def test_messages_that_quote_broken_text_can_be_stored(jobs):
    job = new_job(jobs)
    jobs.claim(("queued",), "a", 60)

    with jobs.locked(job.id, "a") as (session, mine):
        fail_job(session, mine, "bad", "role 'a\0b\ud800' is unknown")

    assert "role" in jobs.find(job.id).error["message"]


def test_pages_go_on_where_they_stopped_while_rows_are_added(store, tmp_path):
    files = FileStore(store, tmp_path / "files")
    for _ in range(5):
        files.add(io.BytesIO(b"x"), "x", "batch")
    first, more = files.page(None, None, 3, "desc")
    files.add(io.BytesIO(b"x"), "x", "batch")
    rest, end = files.page(None, first[-1].id, 3, "desc")

    assert more and not end
    assert [file.seq for file in (*first, *rest)] == sorted(
        [file.seq for file in (*first, *rest)], reverse=True
    )
    assert len(first) == 3 and len(rest) == 2


def test_rows_survive_closing(url, jobs, store):
    job = new_job(jobs, labels={"a": "ü"})
    store.close()

    again = Database(url)
    with again.reading() as session:
        found = session.scalars(select(Job)).one()
    again.close()

    assert found.id == job.id and found.labels == {"a": "ü"} and found.error is None


def test_what_the_checker_lets_go_of_its_own_trainer_keeps(store, jobs, tmp_path):
    worker = JobWorker(Workspace(store, tmp_path))
    job = new_job(jobs, status="validating_files")

    def check(claimed):
        with jobs.locked(claimed.id, claimed.worker) as (session, mine):
            mine.status, mine.worker = "queued", None
        worker._work_on_next(TRAINER, lambda mine: held.append(mine.worker) or go_on_checking(mine))

    def go_on_checking(mine):
        jobs.release(mine.id, checker[0])
        held.append(jobs.find(mine.id).worker)

    held, checker = [], []
    worker._work_on_next(CHECKER, lambda claimed: checker.append(claimed.worker) or check(claimed))

    assert held == [held[0], held[0]] and held[0] != checker[0]
    assert jobs.find(job.id).worker is None


def test_a_job_with_code_is_not_touched_by_a_server_that_runs_none(store, jobs, tmp_path):
    code = {"type": "python", "name": "own", "source": "def grade(sample, item): return 1"}
    several = {"type": "multi", "name": "m", "graders": {"own": code}, "calculate_output": "own"}
    made = [
        new_job(jobs, 1, status="queued", asked={"grader": code}),
        new_job(jobs, 2, status="running", asked={"grader": several}),
    ]
    touched = []

    for _ in made:
        JobWorker(Workspace(store, tmp_path))._work_on_next(TRAINER, touched.append)
    willing = new_job(jobs, status="queued", asked={"grader": code})
    JobWorker(Workspace(store, tmp_path), python_graders=True)._work_on_next(
        TRAINER, touched.append
    )

    assert [job.id for job in touched] == [willing.id]
    for job in made:
        found = jobs.find(job.id)
        assert found.status == "failed" and found.error["code"] == "python_graders_off"


def test_a_store_of_before_there_were_organisations_goes_on(url):
    """Schema 1 had no records, schema 2 no organisations."""
    store = Database(url)
    job = new_job(Jobs(store))
    with store.writing() as session:
        for table in ("files", "jobs"):
            session.execute(text(f"DROP INDEX ix_{table}_organization"))
            session.execute(text(f"ALTER TABLE {table} DROP COLUMN organization"))
        session.execute(text("DROP TABLE records"))
        session.execute(text("UPDATE schema_version SET version = 1"))
    store.close()

    again = Database(url)
    with as_organization("acme"):
        with pytest.raises(RequestError):
            Jobs(again).find(job.id)
        theirs = new_job(Jobs(again), 1)
    with as_organization("burnish"):
        assert Jobs(again).find(job.id).organization == "burnish"
        assert Jobs(again).count_unfinished() == 1
    assert (
        Jobs(again).count_unfinished() == 2 and Jobs(again).find(theirs.id).organization == "acme"
    )
    again.close()


def test_those_who_ask_at_once_do_not_exceed_a_quota_together(url, jobs):
    refused = []

    def begin(number):
        CURRENT_KEY.set(ApiKey("a", "", most_jobs=2))
        try:
            new_job(jobs, number)
        except QuotaExceeded:
            refused.append(number)

    at_once(5, begin)

    assert len(refused) == 3 and jobs.count_unfinished() == 2
