"""A session: what the service keeps alive for this process, from the first request to the end."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
import weakref
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from typing import Any, Literal, TypeVar

from tinsmith.client.transport.connection import Connection
from tinsmith.client.transport.futures import share, wait_blocking
from tinsmith.client.transport.loop import at_shutdown, background
from tinsmith.client.transport.outcomes import tell_all
from tinsmith.client.transport.polling import Poller
from tinsmith.types.errors import APIConnectionError, TinsmithError
from tinsmith.types.requests import CreateSessionRequest, FinishReason, FinishSessionRequest, SessionHeartbeatRequest
from tinsmith.types.responses import CreateSessionResponse
from tinsmith.version import __version__

T = TypeVar("T")

FinishStatus = Literal["success", "errored", "interrupted"]

logger = logging.getLogger("tinsmith")

# Both of the protocol: so often, and only after so long without one is it worth a warning.
_HEARTBEAT_S = 10.0
_HEARTBEAT_ALARM_S = 120.0
# How long the end of the process may be held up by telling the service about it.
_FINISH_TIMEOUT_S = 5.0
# The answer to a heartbeat of a session that is over.
_GONE = 410
# Sampling requests being posted at once, by all samplers of a session. A post is over when the request is accepted,
# so that this bounds sockets, not samples.
_SAMPLE_POSTS = 64


class ClientSession:
    """One session of a service, made when it is first needed.

    Args:
        connection: to the service; ends with the session.
        request: what to tell the service about this session.
        session_id: join this session of another process instead of making one; it is not ended from here.
    """

    def __init__(
        self, connection: Connection, request: CreateSessionRequest | None = None, session_id: str | None = None
    ) -> None:
        self.connection = connection
        self.poller = Poller(connection)
        # The numbers under which models and sampling sessions are asked for; `types.ids` makes ids of them.
        self.model_seq_ids = itertools.count()
        self.sampling_session_seq_ids = itertools.count()
        # A full queue is full for every sampler, so all of them share the posts and the pause after a refusal.
        self.sample_posts = asyncio.Semaphore(_SAMPLE_POSTS)
        self.sample_pause_until = 0.0
        self._request = request or CreateSessionRequest(sdk_version=__version__)
        self._joined = session_id
        self._lock = threading.Lock()
        self._opened: Future[str] | None = None
        self._outstanding: set[Future[Any]] = set()
        self._finished = False
        _sessions.add(self)

    # -- opening ------------------------------------------------------------------------------------------------------

    def open(self) -> Future[str]:
        """Make the session on the first call; the future gives its id."""
        self.connection.check_usable()
        # Any thread may come first; a second session would split the models of one client.
        with self._lock:
            failed = self._opened is not None and self._opened.done() and self._opened.exception() is not None
            if self._opened is None or failed:
                self._opened = self.connection.submit(self._open())
            return self._opened

    async def id(self) -> str:
        """Wait for the session's id."""
        return await share(self.open())

    def id_blocking(self) -> str:
        """Wait for the session's id, blocking."""
        return wait_blocking(self.open())

    async def _open(self) -> str:
        session_id = self._joined
        if session_id is None:
            # First, as the protocol has it: a service may answer nothing else before.
            await self.connection.config()
            answer = await self.connection.call(
                CreateSessionResponse, "POST", "create_session", json=self._request.wire()
            )
            for level, message in (
                (logging.INFO, answer.info_message),
                (logging.WARNING, answer.warning_message),
                (logging.ERROR, answer.error_message),
            ):
                if message:
                    logger.log(level, "%s", message)
            session_id = answer.session_id
        # Weak: the heartbeat is no reason for a session to live on, which nobody could use any more.
        background().submit(_keep_alive(weakref.ref(self), self.connection, session_id))
        if self._joined is None:
            # A session that nobody holds any more is ended, so that its adapters free the service's memory.
            self._end = weakref.finalize(self, _finish_unheld, self.connection, session_id)
            # At the end of the process `_finish_all` ends it, which waits first for what was submitted.
            self._end.atexit = False
        return session_id

    # -- operations ---------------------------------------------------------------------------------------------------

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine that the end of the session does not wait for."""
        return self.connection.submit(coroutine)

    def submit_lasting(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine that the end of the session waits for: something that trains or saves."""
        future = self.connection.submit(coroutine)
        self._outstanding.add(future)
        future.add_done_callback(self._outstanding.discard)
        return future

    def keep(self) -> None:
        """Do not end the session when this process drops it: another process was given a handle to it."""
        if self._opened is not None and self._opened.done() and hasattr(self, "_end"):
            self._end.detach()

    # -- end ----------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Wait until everything submitted that trains or saves is done; errors stay with their futures."""
        # Of a session that was ended early, by Ctrl-C, nobody wants the rest.
        pending = [] if self._finished else list(self._outstanding)
        if pending:
            # Most are done within this time; only a longer wait needs a word of explanation.
            _, late = wait(pending, timeout=2.0)
            if late:
                logger.warning("waiting for what was submitted and is not done yet: %d", len(late))
                wait(late)

    def finish(self, status: FinishStatus, detail: str | None = None) -> None:
        """End the session and close the connection; later calls do nothing."""
        if self._finished:
            return
        self._finished = True
        # Whoever pressed Ctrl-C sees the frames of it, and most of what failed then failed of that.
        if status != "interrupted":
            self.connection.outcomes.tell()
        self.connection.outcomes.close()
        # One that was never asked for, or that could not be made, has nothing to end at the service.
        opened = self._opened
        session_id = opened.result() if opened is not None and opened.done() and opened.exception() is None else None
        if session_id is not None and self._joined is None and hasattr(self, "_end"):
            self._end.detach()
            try:
                background().submit(_finish(self.connection, session_id, status, detail)).result(_FINISH_TIMEOUT_S)
            except (TinsmithError, TimeoutError) as error:
                logger.warning("the session could not be ended at %s: %s", self.connection.address, error)
        background().submit(self.connection.close()).result(_FINISH_TIMEOUT_S)

    def leave(self, error: BaseException | None) -> None:
        """End the session at the end of a `with` block that ended well, with an error, or by an interruption."""
        # Ctrl-C and the like: whoever pressed it does not want to wait for what was submitted.
        if error is not None and not isinstance(error, Exception):
            self.finish("interrupted", repr(error))
            return
        self.drain()
        self.finish("success" if error is None else "errored", None if error is None else repr(error))


async def _keep_alive(session: weakref.ref[ClientSession], connection: Connection, session_id: str) -> None:
    """Send heartbeats until the session is finished, forgotten, or ended by the service."""
    body = SessionHeartbeatRequest(session_id=session_id).wire()
    last_success = last_alarm = time.monotonic()
    while True:
        await asyncio.sleep(_HEARTBEAT_S)
        if session() is None or connection.closed:
            return
        try:
            # Once, without tries of its own: the next one is due in ten seconds.
            response = await connection.exchange("POST", "session_heartbeat", json=body, timeout=_HEARTBEAT_S)
        except APIConnectionError as error:
            outcome = str(error)
        else:
            if response.status_code == _GONE:
                logger.warning("session %s was ended by %s: %s", session_id, connection.address, response.text)
                return
            outcome = f"HTTP {response.status_code}"
            if response.status_code < 400:
                last_success = last_alarm = time.monotonic()
                continue
        now = time.monotonic()
        if now - last_alarm > _HEARTBEAT_ALARM_S:
            last_alarm = now
            logger.warning("no heartbeat of session %s for %.0f s: %s", session_id, now - last_success, outcome)


async def _finish(connection: Connection, session_id: str, status: FinishStatus, detail: str | None) -> None:
    request = FinishSessionRequest(reason=FinishReason(type=status), detail=detail)
    path = f"sessions/{session_id}/finish"
    # Once, and briefly: a service that is away ends the session by itself when the heartbeats stop. The detail is
    # sent even where it is None, as one of the two bodies of the protocol that keep their nulls.
    await connection.exchange("POST", path, json=request.model_dump(mode="json"), timeout=_FINISH_TIMEOUT_S)


def _finish_unheld(connection: Connection, session_id: str) -> None:
    # Called by the garbage collector, in any thread and within any other call: it may start work, but not wait.
    if not connection.closed:
        background().submit(_finish_and_close(connection, session_id))


async def _finish_and_close(connection: Connection, session_id: str) -> None:
    try:
        await _finish(connection, session_id, "success", None)
    except APIConnectionError as error:
        logger.info("the session could not be ended at %s: %s", connection.address, error)
    await connection.close()


# For the end of the process only, and weak, so that being listed keeps none of them.
_sessions: weakref.WeakSet[ClientSession] = weakref.WeakSet()


def _finish_all() -> None:
    """At the end of the process: let what was submitted be carried out, then end the sessions."""
    for session in list(_sessions):
        try:
            session.drain()
        except KeyboardInterrupt:
            session.finish("interrupted")
        else:
            session.finish("success")
    tell_all()


at_shutdown(_finish_all)
