"""A system prompt is read once: the next request begins behind it and says what it would have."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.core.records import Message, Prompt
from burnish.engines.local.decoding import Prefix
from burnish.engines.scheduling.model_pool import open_model_pool
from burnish.engines.scheduling.prefix_cache import PrefixCache
from burnish.engines.scheduling.scheduler import Scheduler

RULES = "one two three four five six seven eight nine ten " * 10
QUESTIONS = ("red", "where is my parcel?", "the lamp is broken", "one", "red")


def prompt(question, system=RULES, **settings):
    return Prompt(
        (Message("system", system), Message("user", question)), max_new_tokens=8, **settings
    )


@pytest.fixture
def fleet(canaries):
    return open_model_pool([*canaries, "tiny"])


@pytest.fixture
def ask():
    """Asks one engine after the other, each alone; returns the answers."""
    schedulers = []

    def each(asked, **options):
        schedulers.append(Scheduler(**options))
        answers = []
        for engine, one in asked:
            done, heard = threading.Event(), []

            def tell(update, done=done, heard=heard):
                if update.answer or update.error:
                    heard.append(update)
                    done.set()

            schedulers[-1].submit(engine, [engine.build_request(one)], [tell])
            assert done.wait(30) and heard[0].error is None
            answers.append(heard[0].answer)
        return answers

    yield each
    for scheduler in schedulers:
        scheduler.close()


def test_a_shared_system_prompt_is_read_twice_and_then_known(fleet, ask):
    engine = fleet.find("tiny")
    prompts = [prompt(question) for question in QUESTIONS]

    answers = ask([(engine, one) for one in prompts])

    assert [answer.text for answer in answers] == [engine.answer([one])[0].text for one in prompts]
    assert [answer.tokens_cached for answer in answers[:2]] == [0, 0]
    known = engine.count_tokens((Message("system", RULES),))
    for answer in answers[2:]:
        assert known - 10 < answer.tokens_cached < answer.tokens_in


def test_a_conversation_goes_on_behind_its_last_turn(fleet, ask):
    engine, turns, asked = fleet.find("tiny"), [Message("system", RULES)], []
    for question in QUESTIONS[:4]:
        turns.append(Message("user", question))
        asked.append(Prompt(tuple(turns), max_new_tokens=8))
        turns.append(Message("assistant", f"the answer to {question} is {RULES}"))

    answers = ask([(engine, one) for one in asked])

    assert [answer.text for answer in answers] == [engine.answer([one])[0].text for one in asked]
    assert answers[3].tokens_cached >= answers[1].tokens_in - 1


def test_choices_begin_behind_it_too(fleet, ask):
    engine = fleet.find("tiny")
    prompts = [prompt(question, choices=("refund", "parcel", "lamp")) for question in QUESTIONS]

    answers = ask([(engine, one) for one in prompts])

    assert [answer.text for answer in answers] == [engine.answer([one])[0].text for one in prompts]
    assert answers[-1].tokens_cached > 0


def test_no_adapter_begins_behind_another_ones_tokens(fleet, canaries, ask):
    names = [*canaries, "tiny"] * 3
    asked = [(fleet.find(name), prompt("red")) for name in names]

    answers = ask(asked)

    assert [answer.text for answer in answers] == [
        engine.answer([one])[0].text for engine, one in asked
    ]
    assert [answer.tokens_cached > 0 for answer in answers] == [False] * 6 + [True] * 3


def test_without_memory_nothing_is_kept(fleet, ask):
    engine = fleet.find("tiny")

    answers = ask([(engine, prompt(question)) for question in QUESTIONS], prefix_bytes=0)

    assert {answer.tokens_cached for answer in answers} == {0}


class Counting:
    """Reads beginnings of so many bytes a token."""

    def __init__(self):
        self.read = []

    def read_prefix(self, ids, begin=None):
        self.read.append((len(begin.ids) if begin else 0, len(ids)))
        return Sized(tuple(ids), ())


class Sized(Prefix):
    @property
    def bytes(self):
        return 10 * len(self.ids)

    def truncate(self, length):
        return Sized(self.ids[:length], ())


class Asked:
    """What is looked at of a request."""

    def __init__(self, ids, owner=""):
        self.ids, self.owner = ids, owner


def found(kept, engine, ids, owner=""):
    request = Asked(ids, owner)
    kept.remember(engine, [request])
    return kept.find(engine, request)


def test_what_was_not_used_for_longest_goes_first():
    kept, engine = PrefixCache(2_500), Counting()
    ids = {name: [place] * 100 for place, name in enumerate("abc")}

    def ask(name):
        return found(kept, engine, [*ids[name], 7])[1]

    assert [ask(name) for name in "aabba"] == [0, 0, 0, 0, 100]
    assert [ask(name) for name in "ccab"] == [0, 0, 100, 0]
    assert kept.bytes <= 2_500


def test_nobody_learns_from_a_beginning_what_others_have_asked():
    kept, engine, ids = PrefixCache(10**9), Counting(), [3] * 100

    seen = [found(kept, engine, [*ids, 7], owner)[1] for owner in ("a", "a", "b", "a", "b", "b")]

    assert seen == [0, 0, 0, 100, 0, 100]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.lists(st.integers(0, 1), max_size=4)), max_size=14),
    st.integers(0, 9_000),
)
def test_a_beginning_is_one_and_its_own_engines(asked, most):
    kept, engines = PrefixCache(most), (Counting(), Counting())
    for number, blocks in asked:
        ids = [token for block in blocks for token in [block] * 70] + [5]
        prefix, had = found(kept, engines[number], ids)
        assert (prefix is None and had == 0) or (
            list(prefix.ids) == ids[: len(prefix.ids)] and had <= len(prefix.ids) < len(ids)
        )
        assert kept.bytes <= most
        for (engine, _), own in kept._kept:
            assert own[-1] in (0, 1) and any(length == len(own) for _, length in engine.read)
