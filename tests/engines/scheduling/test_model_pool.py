"""Adapters share a base and never leak into one another, in any order and any mix."""

import itertools
import threading

import pytest

from burnish.core.errors import BadRecipe, NotFound
from burnish.core.records import Message, Prompt
from burnish.engines.local.decoding import DecodingBatch
from burnish.engines.local.open import open_local_engine
from burnish.engines.scheduling.model_pool import open_model_pool
from burnish.engines.scheduling.pending import AnswerFailed
from burnish.engines.scheduling.scheduler import Overloaded, Scheduler, SchedulerStopped
from burnish.models.artifact import Artifact
from burnish.models.find_artifact import find_artifact

ASKED = (Message("user", "where is my parcel?"),)
SHORT = Prompt(ASKED, max_new_tokens=12)


@pytest.fixture
def fleet(canaries):
    return open_model_pool([*canaries, "tiny"], {"gpt-4o-mini": "tiny"})


@pytest.fixture
def expected(canaries, fleet):
    """What each model says when it is asked alone, by name."""
    plain = open_local_engine("tiny").answer([SHORT])[0].text
    assert plain not in canaries.values()
    return {**canaries, "tiny": plain}


@pytest.fixture
def scheduler():
    scheduler = Scheduler(max_batch=3)
    yield scheduler
    scheduler.close()


class Heard:
    """Collects one request's updates; `wait` returns the answer's text."""

    def __init__(self):
        self.pieces, self.last, self.done = [], None, threading.Event()

    def __call__(self, update):
        self.pieces.append(update.text)
        if update.answer or update.error:
            self.last = update
            self.done.set()

    def wait(self):
        assert self.done.wait(30)
        assert self.last.error is None, self.last.error
        assert "".join(self.pieces) == self.last.answer.text
        return self.last.answer.text


def test_adapters_share_one_base_in_memory(fleet, canaries):
    assert len({id(engine.model) for engine in fleet.engines.values()}) == 1
    assert fleet.parents == dict.fromkeys(canaries, "tiny")
    assert len({id(fleet.find(name).tokenizer) for name in canaries}) == 1


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_no_adapter_leaks_into_the_next_request(fleet, expected, order):
    names = [list(expected)[place] for place in order]

    for name in [*names, *reversed(names)]:
        assert fleet.find(name).answer([SHORT])[0].text == expected[name]


def test_streams_of_different_adapters_may_interleave(fleet, expected):
    streams = {name: fleet.find(name).stream(SHORT) for name in expected}
    heard = dict.fromkeys(streams, "")

    for pieces in itertools.zip_longest(*streams.values(), fillvalue=""):
        for name, piece in zip(streams, pieces, strict=True):
            heard[name] += piece

    assert heard == expected


@pytest.mark.parametrize("mix", itertools.product(range(3), repeat=3))
def test_no_adapter_leaks_when_requests_run_at_once(fleet, expected, scheduler, mix):
    names = [list(expected)[place] for place in mix] * 2
    heard = [Heard() for _ in names]

    for name, listener in zip(names, heard, strict=True):
        engine = fleet.find(name)
        scheduler.submit(engine, [engine.build_request(SHORT)], [listener])

    assert [listener.wait() for listener in heard] == [expected[name] for name in names]


def test_requests_for_different_adapters_share_passes(fleet, expected, scheduler, monkeypatch):
    passes, real = [], DecodingBatch.step

    def step(self):
        passes.append({request.adapter for request in self.requests})
        real(self)

    monkeypatch.setattr(DecodingBatch, "step", step)
    heard = [Heard() for _ in expected]
    begun = threading.Event()
    held = scheduler.run_between_steps(lambda: begun.wait(30))  # so that all of them are waiting
    for name, listener in zip(expected, heard, strict=True):
        scheduler.submit(fleet.find(name), [fleet.find(name).build_request(SHORT)], [listener])
    begun.set()

    assert held.result(30)
    assert [listener.wait() for listener in heard] == list(expected.values())
    assert len(passes[0]) == 3 and len(passes) < 12


def test_a_request_that_joins_a_running_batch_gets_its_own_answer(fleet, scheduler):
    engine = fleet.find("tiny")
    texts = ["red", "where is my parcel?", "one two three four five six seven", "the lamp"]
    prompts = [Prompt((Message("user", text),), max_new_tokens=40) for text in texts]
    alone = [engine.answer([prompt])[0].text for prompt in prompts]
    heard = [Heard() for _ in prompts]
    begun = threading.Event()

    def first(update):
        heard[0](update)
        begun.set()

    scheduler.submit(engine, [engine.build_request(prompts[0])], [first])
    assert begun.wait(30)
    for prompt, listener in zip(prompts[1:], heard[1:], strict=True):
        scheduler.submit(engine, [engine.build_request(prompt)], [listener])

    assert [listener.wait() for listener in heard] == alone


def test_choices_go_through_the_scheduler_too(fleet, scheduler):
    engine, heard = fleet.find("tiny"), Heard()
    prompt = Prompt(ASKED, choices=("refund", "parcel"))

    scheduler.submit(engine, [engine.build_request(prompt)], [heard])

    assert heard.wait() == engine.answer([prompt])[0].text


def test_a_cancelled_request_leaves_and_the_others_go_on(fleet, expected, scheduler):
    engine, heard, gone = fleet.find("tiny"), Heard(), Heard()
    long = engine.build_request(Prompt(ASKED, max_new_tokens=900))
    (ticket,) = scheduler.submit(engine, [long], [gone])
    scheduler.submit(engine, [engine.build_request(SHORT)], [heard])

    scheduler.cancel([ticket])

    assert heard.wait() == expected["tiny"]
    scheduler.close()
    assert scheduler.running == 0 and len(long.token_ids) < 900


def test_too_many_waiting_requests_are_refused(fleet):
    scheduler = Scheduler(max_waiting=2)
    engine = fleet.find("tiny")
    with pytest.raises(Overloaded):
        scheduler.submit(engine, [engine.build_request(SHORT) for _ in range(3)], [Heard()] * 3)
    scheduler.close()
    with pytest.raises(SchedulerStopped):
        scheduler.submit(engine, [engine.build_request(SHORT)], [Heard()])


def test_closing_finishes_what_was_asked(fleet, expected):
    scheduler, heard = Scheduler(), Heard()
    engine = fleet.find("tiny")
    scheduler.submit(engine, [engine.build_request(SHORT)], [heard])

    scheduler.close()

    assert heard.wait() == expected["tiny"]


def test_a_fault_in_one_batch_is_told_and_the_next_one_is_answered(fleet, expected, scheduler):
    engine, lost, heard = fleet.find("tiny"), Heard(), Heard()
    broken = engine.build_request(SHORT)
    broken.ids = [10**9]  # no such token: the embedding raises

    scheduler.submit(engine, [broken], [lost])
    assert lost.done.wait(30)
    scheduler.submit(engine, [engine.build_request(SHORT)], [heard])

    assert isinstance(lost.last.error, AnswerFailed)
    assert heard.wait() == expected["tiny"]


def test_a_request_that_cannot_begin_takes_nobody_with_it(fleet, canaries, scheduler):
    base, other = fleet.find("tiny"), fleet.find(next(iter(canaries)))
    long = Prompt(ASKED, max_new_tokens=60)
    alone = base.answer([long])[0].text
    lost, heard, begun = Heard(), Heard(), threading.Event()

    def first(update):
        heard(update)
        begun.set()

    scheduler.submit(base, [base.build_request(long)], [first])
    assert begun.wait(30)
    broken = other.build_request(SHORT)
    broken.ids = [10**9]
    scheduler.submit(other, [broken], [lost])

    assert lost.done.wait(30) and isinstance(lost.last.error, AnswerFailed)
    assert heard.wait() == alone


def test_a_fleet_knows_runs_by_id_by_the_name_given_and_by_alias(canaries, fleet):
    last = open_model_pool(["last"])

    assert last.find("last") is last.find("20260102-parrot")
    assert fleet.find("gpt-4o-mini") is fleet.find("tiny")
    with pytest.raises(NotFound, match="does not exist"):
        fleet.find("gpt-5")


def test_a_name_cannot_mean_two_models(canaries):
    with pytest.raises(BadRecipe, match="two models"):
        open_model_pool(["tiny", "last"], {"tiny": "last"})
    with pytest.raises(BadRecipe, match="Nothing to serve"):
        open_model_pool([])


def test_an_adapter_is_added_while_the_base_answers_and_changes_nobody_elses_text(
    canaries, expected, scheduler
):
    fleet = open_model_pool(["tiny"])
    long = Prompt(ASKED, max_new_tokens=40)
    alone = open_local_engine("tiny").answer([long])[0].text
    heard, later = Heard(), Heard()
    base = fleet.find("tiny")
    scheduler.submit(base, [base.build_request(long)], [heard])

    for name in canaries:
        folder = find_artifact(name).path
        added = scheduler.run_between_steps(
            lambda name=name, folder=folder: fleet.add(name, folder)
        ).result(30)
        own = Heard()
        scheduler.submit(added, [added.build_request(SHORT)], [own])
        assert own.wait() == expected[name]
    scheduler.submit(base, [base.build_request(SHORT)], [later])

    assert heard.wait() == alone and later.wait() == expected["tiny"]
    assert len({id(engine.model) for engine in fleet.engines.values()}) == 1
    assert fleet.parents == dict.fromkeys(canaries, "tiny")


def test_an_adapter_that_was_trained_on_other_weights_is_added_with_weights_of_its_own(
    canaries, expected, monkeypatch
):
    monkeypatch.setattr(Artifact, "quantized", property(lambda _: {"double_quant": True}))
    fleet, folder = open_model_pool(["tiny"]), find_artifact("last").path
    added = fleet.add("four-bit", folder)

    assert added.name == "four-bit" and added.model is not fleet.find("tiny").model
    assert added.answer([SHORT])[0].text == open_local_engine("last").answer([SHORT])[0].text
    assert fleet.find("tiny").answer([SHORT])[0].text == expected["tiny"]


def test_what_an_errand_raises_comes_to_whoever_asked(scheduler):
    def refuse():
        raise NotFound("no", "")

    with pytest.raises(NotFound):
        scheduler.run_between_steps(refuse).result(30)
    assert scheduler.run_between_steps(lambda: 7).result(30) == 7
