"""Sending the requests of one sampling session: back-pressure, lost promises, cancellation."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tinsmith.client.transport.connection import Connection
from tinsmith.client.transport.exchange import checked, parse
from tinsmith.client.transport.loop import background
from tinsmith.client.transport.outcomes import OperationFuture, peek
from tinsmith.client.transport.polling import PromiseLostError
from tinsmith.client.transport.retry import asked_delay
from tinsmith.client.transport.session import ClientSession
from tinsmith.types.codec import decode_sample_response
from tinsmith.types.errors import APIError, TinsmithError
from tinsmith.types.outputs import SampleResponse
from tinsmith.types.params import SamplingParams
from tinsmith.types.requests import CancelFutureRequest
from tinsmith.types.responses import UntypedFuture
from tinsmith.types.tensor import TensorData

logger = logging.getLogger("tinsmith")

# A full queue. The common retries would come back on their own, one by one; here the whole session has to pause.
_TOO_MANY = 429
_TOO_MANY_ANSWERS = frozenset({_TOO_MANY})
# Tells the service that a 429 is understood so.
_BACKPRESSURE = {"X-Tinker-Sampling-Backpressure": "1"}
# Pauses after back-pressure where the service names none, for prompts of up to and of more than this many tokens: the
# protocol draws the line at 128 KiB, which it reckons at 10 bytes a token.
_LONG_PROMPT = 13_000
_SHORT_PAUSE_S = 1.0
_LONG_PAUSE_S = 5.0
# Before a lost request is asked for again, as the protocol has it: the service has only just come up.
_RESUBMIT_S = 0.5


@dataclass(frozen=True)
class OpenedSampler:
    """What a sampling client samples from.

    Attributes:
        sampling_session_id: its id at the service.
        base_model: the base, which the tokenizer belongs to.
        model_path: the saved weights; None for the base itself and for a snapshot.
    """

    sampling_session_id: str
    base_model: str
    model_path: str | None = None


@dataclass(frozen=True)
class SampleSpec:
    """One sampling request, as `SamplingClient.sample` takes it."""

    prompt: Sequence[int]
    params: SamplingParams
    num_samples: int = 1
    prompt_logprobs: bool = False
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    target_prompt_logprobs: TensorData | None = None
    prompt_alt_tokens_k: int = 0
    prompt_logprobs_last_n: int | None = None
    record_stability_info: bool = False

    def body(self) -> dict[str, Any]:
        """Return the JSON body, but for the ids."""
        chunk = {"type": "encoded_text", "tokens": list(self.prompt)}
        body: dict[str, Any] = {
            "type": "sample",
            "prompt": {"chunks": [chunk]},
            "num_samples": self.num_samples,
            "sampling_params": self.params.wire(),
            "prompt_logprobs": self.prompt_logprobs,
            "topk_prompt_logprobs": self.topk_prompt_logprobs,
            "topk_sample_logprobs": self.topk_sample_logprobs,
            "prompt_alt_tokens_k": self.prompt_alt_tokens_k,
        }
        if self.target_prompt_logprobs is not None:
            body["target_prompt_logprobs"] = self.target_prompt_logprobs.model_dump()
        if self.prompt_logprobs_last_n is not None:
            body["prompt_logprobs_last_n"] = self.prompt_logprobs_last_n
        if self.record_stability_info:
            body["record_stability_info"] = True
        return body


class SamplePoster:
    """Sends the requests of one sampler.

    A sampler that nobody holds any more, neither a client nor a request under way, is closed, so that it frees the
    service's memory and disk.

    Args:
        session: that the sampler belongs to, and whose other samplers share its posts.
        opened: gives the sampler once the service has it.
        first_seq_id: where its sequence numbers start.
        shared: the sampler belongs to other processes as well; it ends with its session.
    """

    def __init__(
        self,
        session: ClientSession,
        opened: OperationFuture[OpenedSampler],
        first_seq_id: int = 0,
        *,
        shared: bool = False,
    ) -> None:
        self._session = session
        self.opened = opened
        self._seq_ids = itertools.count(first_seq_id)
        self._running = 0
        self._idle = asyncio.Event()
        self._closed = False
        # A request under way holds this object, through its coroutine: nothing is closed while anybody waits.
        self._end = weakref.finalize(self, _close_unheld, session.connection, opened)
        # At the end of the process the session ends, and all its samplers with it.
        self._end.atexit = False
        if shared:
            self.keep()

    def keep(self) -> None:
        """Leave the sampler's end to its session: other processes use it, too."""
        self._end.detach()

    async def close(self) -> None:
        """Take no more requests, wait for those under way, and let the service free the sampler."""
        # Closed first, then waited: nothing new may come in while the last requests are finished.
        again, self._closed = self._closed, True
        self._end.detach()
        while self._running:
            self._idle.clear()
            await self._idle.wait()
        if not again:
            await _close(self._session.connection, self.opened)

    async def sample(self, spec: SampleSpec) -> SampleResponse:
        """Send a request and wait for its result; a promise that the service has lost is asked for again.

        Raises:
            RequestFailedError: the request failed.
            TinsmithError: the service left out something that was asked for, or the sampler was closed.
        """
        if self._closed:
            raise TinsmithError("this SamplingClient was closed: make another one")
        self._running += 1
        try:
            return await self._sample(spec)
        finally:
            self._running -= 1
            self._idle.set()

    async def _sample(self, spec: SampleSpec) -> SampleResponse:
        sampler = await peek(self.opened)
        body = spec.body() | {"sampling_session_id": sampler.sampling_session_id}
        while True:
            # A new number for every new request; under the old one the service would give the promise that it lost.
            promise = await self._post(body | {"seq_id": next(self._seq_ids)}, len(spec.prompt))
            try:
                message = await self._session.poller.message(promise.request_id)
            except PromiseLostError as error:
                logger.info("asking for a sample again: %s", error)
                await asyncio.sleep(_RESUBMIT_S)
            except asyncio.CancelledError:
                # As a task of its own, because this one is being torn down.
                background().submit(self._cancel(promise.request_id))
                raise
            else:
                return _complete(decode_sample_response(message, promise.sample_sequence_ids), spec)

    async def _post(self, body: dict[str, Any], prompt_length: int) -> UntypedFuture:
        """Post under one number until the service takes it; a full queue makes the whole session pause."""
        session = self._session
        while True:
            async with session.sample_posts:
                await asyncio.sleep(max(0.0, session.sample_pause_until - time.monotonic()))
                response = await session.connection.attempt(
                    "POST",
                    "asample",
                    json=body,
                    headers=_BACKPRESSURE,
                    answers=_TOO_MANY_ANSWERS,
                )
            # The same number again, after the pause: a refused request was never taken.
            if response.status_code != _TOO_MANY:
                return parse(UntypedFuture, checked(response))
            pause = asked_delay(response) or (_SHORT_PAUSE_S if prompt_length <= _LONG_PROMPT else _LONG_PAUSE_S)
            session.sample_pause_until = time.monotonic() + pause

    async def _cancel(self, request_id: str) -> None:
        connection = self._session.connection
        try:
            if (await connection.dynamic_config()).sample_cancel_enabled:
                body = CancelFutureRequest(request_id=request_id).wire()
                await connection.exchange("POST", "cancel_future", json=body)
        except APIError as error:
            logger.info("request %s could not be cancelled: %s", request_id, error)


def _close_unheld(connection: Connection, opened: OperationFuture[OpenedSampler]) -> None:
    # Called by the garbage collector, which may run anywhere, a forked child included: start work, wait for nothing.
    if connection.usable:
        background().submit(_close(connection, opened))


async def _close(connection: Connection, opened: OperationFuture[OpenedSampler]) -> None:
    """Close a sampler at a service that can; whatever goes wrong, the end of its session frees it."""
    try:
        sampler = await peek(opened)
        # A route of ours, which other services do not have; theirs end samplers with the session.
        if (await connection.config()).close_sampler:
            await connection.exchange("POST", f"samplers/{sampler.sampling_session_id}/close", json={})
    except TinsmithError as error:
        logger.debug("a sampler could not be closed: %s", error)


def _complete(response: SampleResponse, spec: SampleSpec) -> SampleResponse:
    """Check that the service honoured the options that it might not know."""
    if spec.prompt_alt_tokens_k and response.prompt_alt_tokens is None:
        raise TinsmithError("prompt_alt_tokens_k: this service does not give alternative tokens")
    last = spec.prompt_logprobs_last_n
    logprobs = response.prompt_logprobs
    if last is not None and logprobs is not None and any(lp is not None for lp in logprobs[:-last]):
        raise TinsmithError("prompt_logprobs_last_n: this service does not limit prompt logprobs")
    return response
