"""The proof that adapters do not mix; and that it would see it if they did."""

from contextlib import contextmanager

import pytest

from burnish.core.errors import NotFound
from burnish.engines import scheduler
from burnish.engines.canary import NAMES, AdaptersMix, mixes, prove
from burnish.engines.decode import Running
from burnish.engines.local import LocalEngine


def test_every_order_and_mix_is_tried():
    tried = list(mixes(["base", *NAMES]))

    assert {tuple(name for name, _ in mix) for mix in tried if len(mix) == 3} == {
        ("base", *NAMES), ("base", *NAMES[::-1]), (NAMES[0], "base", NAMES[1]),
        (NAMES[1], "base", NAMES[0]), (*NAMES, "base"), (*NAMES[::-1], "base"),
    }  # fmt: skip
    assert max(map(len, tried)) == 12


def test_our_engine_passes_and_says_how_much_was_compared(tiny):
    (proof,) = prove(["tiny", "tiny"])

    assert proof.base == "tiny" and proof.compared > 300 and not proof.wrong


def test_an_adapter_that_stays_active_is_seen(tiny, monkeypatch):
    @contextmanager
    def careless(self):
        if self.adapter:
            self.model.set_adapter(self.adapter)
        yield

    monkeypatch.setattr(LocalEngine, "active", careless)

    with pytest.raises(AdaptersMix, match=r"alone it says|told apart"):
        prove(["tiny"])


def test_one_lane_for_all_adapters_is_seen(tiny, monkeypatch):
    """What other engines do wrong: requests of several adapters in one batch and one cache."""
    shared = {}

    def one_for_all(engine, running, *rest):
        return shared.setdefault("lane", real(engine, Running(engine.model)))

    real = scheduler._Lane
    monkeypatch.setattr(scheduler, "_Lane", one_for_all)

    with pytest.raises(AdaptersMix, match="alone it says"):
        prove(["tiny"])


def test_an_unknown_source_is_not_found(tiny):
    with pytest.raises(NotFound):
        prove(["unknown"])
