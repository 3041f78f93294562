"""When an exchange is tried again, after how long, and when to give up."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tenacity import AsyncRetrying, RetryCallState
from tenacity.stop import stop_after_delay

from tinsmith.types.errors import APIConnectionError

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger("tinsmith")

# What passes by itself: timeouts, conflicts (which the protocol has retried everywhere), full queues, a service that
# is being restarted, and whatever a proxy says meanwhile. Any other 5xx is an answer.
_STATUSES = frozenset({408, 409, 429, 500, 502, 503, 504})
_FIRST_DELAY_S = 0.5
# Short, because a service that comes back after a restart should not idle: its clients are its work.
_LONGEST_DELAY_S = 8.0
# The protocol's bound: a `retry-after` beyond a minute is no advice to a program that waits.
_LONGEST_ASKED_S = 60.0
# An outage is worth a line in the log once it has lasted so long, and again after every further stretch.
_QUIET_S = 3.0
_REMIND_S = 30.0


def is_transient(response: httpx.Response) -> bool:
    """Whether a response asks for another try; a header of the service has the last word."""
    asked = response.headers.get("x-should-retry")
    if asked in ("true", "false"):
        return asked == "true"
    return response.status_code in _STATUSES


def asked_delay(response: httpx.Response) -> float | None:
    """Return the delay in seconds that a response asks for, where it is within a minute."""
    raw = response.headers.get("retry-after-ms")
    scale = 1000.0
    if raw is None:
        raw, scale = response.headers.get("retry-after"), 1.0
    if raw is None:
        return None
    try:
        delay = float(raw) / scale
    except ValueError:
        # The other form of HTTP, a date; rare enough that its parser is not imported with the SDK.
        from email.utils import mktime_tz, parsedate_tz

        date = parsedate_tz(raw)
        delay = mktime_tz(date) - time.time() if date is not None else 0.0
    return delay if 0 < delay <= _LONGEST_ASKED_S else None


def backoff(attempt: int) -> float:
    """Return the delay in seconds after the given attempt (from 1): doubling, with up to a quarter taken off."""
    # The random part keeps a hundred clients from coming back in the same instant, again and again.
    return min(_FIRST_DELAY_S * 2 ** (attempt - 1), _LONGEST_DELAY_S) * random.uniform(0.75, 1.0)


def _should_retry(transient: Callable[[httpx.Response], bool]) -> Callable[[RetryCallState], bool]:
    """Return the test of an outcome: a lost connection, or a response that `transient` says is not the last."""

    def test(state: RetryCallState) -> bool:
        assert state.outcome is not None
        error = state.outcome.exception()
        return isinstance(error, APIConnectionError) if error is not None else transient(state.outcome.result())

    return test


def _wait(state: RetryCallState) -> float:
    outcome = state.outcome
    if outcome is not None and outcome.exception() is None:
        asked = asked_delay(outcome.result())
        if asked is not None:
            return asked
    return backoff(state.attempt_number)


def _last(state: RetryCallState) -> httpx.Response:
    """Give up: return the last response, or raise the last error."""
    assert state.outcome is not None
    return state.outcome.result()


class Outage:
    """Tells the user, once in a while, that a service is not answering and that it is being tried again."""

    def __init__(self, place: str, give_up_s: float) -> None:
        self._place = place
        self._give_up_s = give_up_s
        self._since: float | None = None
        self._told = 0.0

    def failed(self, cause: str | int) -> None:
        """Note a failed exchange: the error's message, or the status of the answer."""
        now = time.monotonic()
        if self._since is None:
            # As if the last reminder had come so long ago that the first is due when the quiet time is over.
            self._since, self._told = now, now - _REMIND_S + _QUIET_S
        if now - self._told >= _REMIND_S:
            self._told = now
            lasted = now - self._since
            cause = f"{self._place} answers {cause}" if isinstance(cause, int) else cause
            logger.warning("%s, for %.0f s now; trying for %.0f s", cause, lasted, self._give_up_s)

    def answered(self) -> None:
        """Note that the service answers."""
        # Whoever was not told of the outage need not hear of its end.
        if self._since is not None and self._told >= self._since:
            logger.warning("%s answers again after %.0f s", self._place, time.monotonic() - self._since)
        self._since = None


def retrying(
    give_up_s: float, outage: Outage, transient: Callable[[httpx.Response], bool] = is_transient
) -> AsyncRetrying:
    """Return the retry policy of one exchange: transient answers and lost connections, for `give_up_s` seconds.

    The exchange's result is an `httpx.Response` of any status, its error an `APIConnectionError`.
    """
    return AsyncRetrying(
        retry=_should_retry(transient),
        wait=_wait,
        stop=stop_after_delay(give_up_s),
        before_sleep=_teller(outage),
        retry_error_callback=_last,
    )


def _teller(outage: Outage) -> Callable[[RetryCallState], None]:
    def tell(state: RetryCallState) -> None:
        assert state.outcome is not None
        error = state.outcome.exception()
        outage.failed(str(error) if error is not None else state.outcome.result().status_code)

    return tell
