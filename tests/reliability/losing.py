"""The service works and dies, and the engine, the disk and the link fail it; clients let go of what they had."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from tests.reliability.asking import lives, pick, tenants
from tests.reliability.history import step
from tests.reliability.lives import Life
from tests.reliability.reference import Asked
from tests.reliability.sending import Sending


class Losing(Sending):
    """A service that anything may happen to."""

    # -- work ---------------------------------------------------------------------------------------------------------

    @step(count=st.integers(1, 6))
    def work_a_little(self, count: int) -> None:
        self.lives.do(self.lives.beats(count))

    @step()
    def work(self) -> None:
        if not self.lives.disk.full:
            self.lives.do(self.lives.settle())

    @step()
    def idle_samplers_leave(self) -> None:
        self.lives.service.dispatcher.rest()

    def _complete(self, wanted: Callable[[Asked], bool]) -> None:
        """Send, work and read until every request that is wanted has its answer."""
        mine = [asked for asked in self.asked if wanted(asked)]
        while open_ := [a for a in mine if a.outcome is None and not (a.dropped and a.request_id is None)]:
            before = len(open_), sum(asked.request_id is None for asked in open_)
            for asked in open_:
                if asked.request_id is None and asked.may_be_sent:
                    self._send(asked)
            self.lives.do(self.lives.settle())
            for asked in open_:
                if asked.request_id is not None:
                    self._read(asked)
            left = [a for a in open_ if a.outcome is None]
            assert (len(left), sum(a.request_id is None for a in left)) < before, f"these never settle: {left}"

    # -- losses -------------------------------------------------------------------------------------------------------

    @step(sent=st.integers(0, 30), count=st.integers(0, 30), unsent=st.booleans())
    def the_engine_dies(self, sent: int, count: int, unsent: bool) -> None:
        self._send_in_order(sent)
        self.lives.do(self.lives.beats(count))
        self.lives.link.kill(unsent)

    def _send_in_order(self, count: int) -> None:
        """Send some requests so that the engine can work on all of them: then it dies with much behind it."""
        for _ in range(count):
            if asked := self._outbox(0):
                self._send(asked)

    @step(calls=st.integers(1, 4))
    def the_engine_will_die_in_a_call(self, calls: int) -> None:
        self.lives.link.engine.fuse = calls

    @step(which=pick)
    def the_link_repeats_itself(self, which: int) -> None:
        self.lives.link.repeat(which)

    @step(full=st.booleans())
    def the_disk_fills_or_is_freed(self, full: bool) -> None:
        self.lives.fill_disk(full)

    @step(life=lives)
    def the_service_dies(self, life: Life) -> None:
        self._die(life)

    def _die(self, life: Life) -> None:
        self._forget_closes()
        self.lives.do(self.lives.kill())
        self.lives.do(self.lives.begin(life))
        # What a client was told stays told, and at once: it is not worked out again.
        for asked in self.asked:
            if asked.outcome is not None:
                self._read(asked)

    @step(sent=st.integers(0, 30), rounds=st.integers(0, 30), count=st.integers(0, 30), life=lives)
    def the_service_dies_before_it_has_stored(self, sent: int, rounds: int, count: int, life: Life) -> None:
        self._send_in_order(sent)
        self.lives.disk.held = True
        if asked := self._outbox(0):
            self.lives.do(self._post_for(asked, rounds))
        self.lives.do(self.lives.beats(count))
        # Whoever is told something now is told it too early.
        for asked in self.asked:
            if asked.request_id is not None and asked.outcome is None:
                self._read(asked)
        self._die(life)

    # -- what is let go of --------------------------------------------------------------------------------------------

    @step(which=pick)
    def close_a_sampler(self, which: int) -> None:
        alive = [s for s in self.samplers if not s.over and (s.origin is None or s.origin.request_id is not None)]
        if not alive or self.lives.disk.full:
            return
        sampler = alive[which % len(alive)]
        sampler.over = True
        for asked in self.asked:
            if asked.kind == "sample" and asked.body["sampling_session_id"] == sampler.sampler_id:  # pyright: ignore
                # One whose answer was lost may or may not be there; its client has given it up.
                asked.dropped = True
        self.lives.do(self.lives.post(sampler.tenant, f"samplers/{sampler.sampler_id}/close", {}))

    def _forget_closes(self) -> None:
        """A close that the service had not yet carried out dies with it: its sampler stays until its session ends."""
        under_way = self.lives.disk.busy
        for sampler in self.samplers:
            sampler.lingers |= sampler.over and (
                under_way or sampler.sampler_id in self.lives.service.core.live.samplers
            )

    @step(tenant=tenants, rounds=st.integers(0, 30))
    def finish_a_session(self, tenant: int, rounds: int) -> None:
        self.lives.fill_disk(False)
        self._complete(lambda asked: asked.tenant == tenant and asked.kind != "sample")
        door, body = f"sessions/{self.sessions[tenant]}/finish", {"reason": {"type": "success"}}
        self.lives.do(self._hang_up(tenant, door, body, rounds))
        self.lives.do(self.lives.post(tenant, door, body))
        for one in [*self.runs, *self.samplers]:
            one.over |= one.tenant == tenant
        for sampler in self.samplers:
            sampler.lingers &= sampler.tenant != tenant
        for asked in self.asked:
            if asked.tenant == tenant:
                asked.may_fail = asked.dropped = True
        self.saved = [saved for saved in self.saved if saved.run.tenant != tenant]
        self.sessions[tenant] = self._open(tenant)
