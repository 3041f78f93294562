"""Requests are sent: late, twice, in any order, over connections that break; and their futures are read."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import strategies as st

from tests.reliability.asking import Asking, pick
from tests.reliability.history import step
from tests.reliability.lives import Refused
from tests.reliability.reference import Asked


class Sending(Asking):
    """Clients and their connections."""

    def _outbox(self, which: int) -> Asked | None:
        """Return one of the requests that may be sent now and were never answered."""
        ready = [a for a in self.asked if a.request_id is None and a.may_be_sent and not a.dropped]
        return ready[which % len(ready)] if ready else None

    async def _post(self, asked: Asked) -> dict[str, Any]:
        return await self.lives.post(asked.tenant, asked.path, asked.body)

    def _send(self, asked: Asked) -> None:
        try:
            self._note(asked, self.lives.do(self._post(asked)))
        except Refused:
            return

    def _note(self, asked: Asked, promise: dict[str, Any]) -> None:
        assert asked.request_id in (None, promise["request_id"]), f"a repeated request got another future: {asked}"
        asked.request_id = promise["request_id"]

    @step(which=pick, count=st.integers(1, 8))
    def send(self, which: int, count: int) -> None:
        for _ in range(count):
            if asked := self._outbox(which):
                self._send(asked)

    @step(which=pick)
    def send_twice_at_once(self, which: int) -> None:
        if (asked := self._outbox(which)) is None:
            return

        async def both() -> list[Any]:
            return list(await asyncio.gather(self._post(asked), self._post(asked), return_exceptions=True))

        for answer in self.lives.do(both()):
            if isinstance(answer, dict):
                self._note(asked, answer)
            elif not isinstance(answer, Refused):
                raise answer

    @step(which=pick)
    def send_and_lose_the_answer(self, which: int) -> None:
        if asked := self._outbox(which):
            self._send(asked)
            asked.request_id = None

    @step(which=pick, rounds=st.integers(0, 30))
    def hang_up_while_sending(self, which: int, rounds: int) -> None:
        if asked := self._outbox(which):
            self.lives.do(self._post_for(asked, rounds))

    async def _post_for(self, asked: Asked, rounds: int) -> None:
        answer = await self._hang_up(asked.tenant, asked.path, asked.body, rounds)
        if answer is not None:
            self._note(asked, answer)

    async def _hang_up(
        self, tenant: int, path: str, body: dict[str, Any] | bytes, rounds: int
    ) -> dict[str, Any] | None:
        """Post, and hang up after so many rounds of the event loop; return the answer if there is one by then."""
        post = asyncio.ensure_future(self.lives.post(tenant, path, body))
        for _ in range(rounds):
            await asyncio.sleep(0)
        post.cancel()
        answer = (await asyncio.gather(post, return_exceptions=True))[0]
        if isinstance(answer, Refused | asyncio.CancelledError):
            return None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @step(which=pick)
    def send_again_what_was_accepted(self, which: int) -> None:
        accepted = [asked for asked in self.asked if asked.request_id is not None and not asked.may_fail]
        if accepted:
            self._send(accepted[which % len(accepted)])

    # -- futures ------------------------------------------------------------------------------------------------------

    @step(which=pick)
    def read(self, which: int) -> None:
        accepted = [asked for asked in self.asked if asked.request_id is not None]
        if accepted:
            self._read(accepted[which % len(accepted)])

    def _read(self, asked: Asked) -> None:
        found = self.lives.do(self.lives.read(asked))
        if found is None:
            assert asked.outcome is None, f"a future that had settled is open again: {asked}"
            return
        if asked.outcome is None:
            asked.outcome = found
            asked.check(found)
        assert found == asked.outcome, f"a future says something else than before: {asked}: got {found}"
