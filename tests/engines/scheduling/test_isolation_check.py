"""The proof that adapters do not mix; and that it would see it if they did."""

import pytest

from burnish.core.errors import NotFound
from burnish.engines.local.decoding import DecodingBatch
from burnish.engines.local.multi_lora import MultiLoraModel
from burnish.engines.scheduling.isolation_check import (
    PROBE_NAMES,
    AdapterLeak,
    check_isolation,
    request_mixes,
)
from burnish.engines.scheduling.prefix_cache import PrefixCache


def test_every_order_and_mix_is_tried():
    tried = list(request_mixes(["base", *PROBE_NAMES]))

    assert {tuple(name for name, _ in mix) for mix in tried if len(mix) == 3} == {
        ("base", *PROBE_NAMES), ("base", *PROBE_NAMES[::-1]),
        (PROBE_NAMES[0], "base", PROBE_NAMES[1]),
        (PROBE_NAMES[1], "base", PROBE_NAMES[0]), (*PROBE_NAMES, "base"),
        (*PROBE_NAMES[::-1], "base"),
    }  # fmt: skip
    assert max(map(len, tried)) == 12


def test_our_engine_passes_and_says_how_much_was_compared(tiny):
    (proof,) = check_isolation(["tiny", "tiny"])

    assert proof.base == "tiny" and proof.compared > 300 and not proof.leak


def _first_for_all(adapters):
    return [next(filter(None, adapters), None)] * len(adapters)


def _last_for_the_base(adapters):
    return [name or next(filter(None, reversed(adapters)), None) for name in adapters]


@pytest.mark.parametrize("confused", [_first_for_all, _last_for_the_base])
def test_rows_that_see_another_rows_adapter_are_seen(tiny, monkeypatch, confused):
    """What other engines do wrong in a batch of several adapters."""
    real = MultiLoraModel.rows_with_adapters
    monkeypatch.setattr(
        MultiLoraModel, "rows_with_adapters", lambda self, given: real(self, confused(given))
    )

    with pytest.raises(AdapterLeak, match="alone it says"):
        check_isolation(["tiny"])


def test_equal_prompts_that_are_read_once_for_two_adapters_are_seen(tiny, monkeypatch):
    """What other engines do wrong with keys and values of a prompt that they know."""
    real = DecodingBatch.join

    def careless(self, requests, prefix=None):
        own = [request.adapter for request in requests]
        for request in requests:
            request.adapter = own[0]
        real(self, requests, prefix)
        for request, adapter in zip(requests, own, strict=True):
            request.adapter = adapter

    monkeypatch.setattr(DecodingBatch, "join", careless)

    with pytest.raises(AdapterLeak, match="alone it says"):
        check_isolation(["tiny"])


def test_a_beginning_that_is_kept_for_all_adapters_is_seen(tiny, monkeypatch):
    real, first = PrefixCache.find, {}
    monkeypatch.setattr(
        PrefixCache,
        "find",
        lambda self, engine, ids: real(self, first.setdefault(id(self), engine), ids),
    )
    noted = PrefixCache.remember
    monkeypatch.setattr(
        PrefixCache,
        "remember",
        lambda self, engine, ids: noted(self, first.setdefault(id(self), engine), ids),
    )

    with pytest.raises(AdapterLeak, match="alone it says"):
        check_isolation(["tiny"])


def test_an_unknown_source_is_not_found(tiny):
    with pytest.raises(NotFound):
        check_isolation(["unknown"])
