"""Sampling requests that wait: their order, whose they are, and those whose sampler does not come."""

from __future__ import annotations

import pytest

from tests.support.operations import sample
from tinsmith.scheduler.samples.known_samplers import KnownSamplers
from tinsmith.scheduler.samples.waiting_samples import WaitingSample, WaitingSamples


@pytest.fixture
def known() -> KnownSamplers:
    known = KnownSamplers()
    for sampler_id in ("s", "t"):
        known.expect(sampler_id)
        known.made(sampler_id)
    return known


@pytest.fixture
def waiting(known: KnownSamplers) -> WaitingSamples:
    return WaitingSamples(known, patience_s=30.0)


def request(sampler_id: str, name: str, since: float = 0.0, company: int | None = None) -> WaitingSample:
    return WaitingSample(sample(sampler_id, request_id=name, owner="ann", company=company), sampler_id, since)


def test_requests_of_a_sampler_go_in_the_order_of_their_arrival(waiting: WaitingSamples) -> None:
    for name in ("a", "b", "c"):
        waiting.add(request("s", name))
    waiting.put_in_front(request("s", "again"))
    assert [waiting.take_first("s").op.request_id for _ in range(4)] == ["again", "a", "b", "c"]
    assert (len(waiting), waiting.has("s"), waiting.of("s")) == (0, False, [])


def test_only_what_has_a_sampler_could_begin(known: KnownSamplers, waiting: WaitingSamples) -> None:
    waiting.add(request("t", "a"))
    waiting.add(request("ghost", "b"))
    assert waiting.usable() == {"t": "ann"}
    known.retire("t")
    assert waiting.usable() == {}
    assert len(waiting) == 2


def test_a_request_is_found_by_its_id_until_it_is_taken(waiting: WaitingSamples) -> None:
    one = request("s", "a")
    waiting.add(one)
    assert waiting.find("a") is one
    assert waiting.take(one) is one
    assert waiting.find("a") is None


def test_suspects_are_known_in_the_order_of_their_arrival(waiting: WaitingSamples) -> None:
    first, plain, second = request("t", "a", company=4), request("s", "b"), request("s", "c", company=4)
    for one in (first, plain, second, request("ghost", "d", company=4)):
        waiting.add(one)
    assert waiting.suspects() == [first, second]
    waiting.take(first)
    assert waiting.suspects() == [second]


class TestSamplersThatDoNotCome:
    def test_one_that_nobody_announced_is_waited_for_as_long_as_said(self, waiting: WaitingSamples) -> None:
        for name, since in (("a", 10.0), ("b", 20.0)):
            waiting.add(request("ghost", name, since))
        assert waiting.next_deadline() == 40.0
        assert waiting.drop_hopeless(39.0) == []
        ((op, why),) = waiting.drop_hopeless(40.0)
        assert (op.request_id, waiting.of("ghost")) == ("a", ["b"])
        assert why == "sampler_id: got 'ghost', expected a sampler that exists and was not released"

    def test_one_that_is_announced_is_waited_for(self, known: KnownSamplers, waiting: WaitingSamples) -> None:
        known.expect("u")
        waiting.add(request("u", "a"))
        assert waiting.next_deadline() is None
        assert waiting.drop_hopeless(1e6) == []

    def test_one_that_cannot_be_made_is_not(self, known: KnownSamplers, waiting: WaitingSamples) -> None:
        waiting.add(request("u", "a"))
        known.expect("u")
        known.broke("u", "no folder")
        assert [(op.request_id, why) for op, why in waiting.drop_hopeless(0.0)] == [("a", "no folder")]
        assert len(waiting) == 0
