"""How a batch travels: cut into requests of bounded size, sent in parallel, its outputs put together again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar, cast

from tinsmith.client.checkpoints.saved_path import SavedPath, settled
from tinsmith.client.training.custom_loss import CustomLoss, differentiate, forward_data, with_custom_metrics
from tinsmith.client.training.ordered_calls import OrderedCalls
from tinsmith.client.training.preference_fallback import PreferenceFallback, evaluated, pair_loss, with_references
from tinsmith.client.training.preference_pairs import Batch, PreferenceRow, render
from tinsmith.client.training.training_ops import find_model_tokenizer
from tinsmith.client.transport.outcomes import OperationFuture
from tinsmith.types.codec import decode_forward_backward_output, encode_forward_backward_request
from tinsmith.types.compression import zstd_compress
from tinsmith.types.datum import Datum
from tinsmith.types.errors import APIStatusError, invalid
from tinsmith.types.facts.loss_table import LOSSES, OWN_FORMULA, REFERENCE_KEY, unit_of
from tinsmith.types.names.http_names import PROTOBUF
from tinsmith.types.outputs import ForwardBackwardOutput, reduce_metrics
from tinsmith.types.responses import ClientConfigResponse

T = TypeVar("T")
LossConfig = Mapping[str, float | str]

logger = logging.getLogger("tinsmith")

# Requests on their way at once: enough to hide the network's delay; eight of the largest (5 MB) are 40 MB.
_PARALLEL_POSTS = 8
# A body above this size, half a MiB, is encoded on a thread: on the loop it would stop all other traffic meanwhile. A
# smaller one is done before a thread has even begun.
_LARGE_BYTES = 2**19


@dataclass(frozen=True, slots=True)
class Pass:
    """What is to be done with a batch.

    Attributes:
        loss_fn: name of a loss of the service.
        loss_config: its parameters.
        forward_only: without gradients.
    """

    loss_fn: str
    loss_config: LossConfig
    forward_only: bool


@dataclass(frozen=True, slots=True)
class _Sent:
    """A batch that was posted.

    Attributes:
        request_ids: of its requests.
        finish: makes the caller's output of the service's.
    """

    request_ids: list[str]
    finish: Callable[[ForwardBackwardOutput], ForwardBackwardOutput] = lambda output: output


class BatchRequests:
    """Sends the batches of one model.

    Args:
        ordered: the model's order, in which batches have their turns.
    """

    def __init__(self, ordered: OrderedCalls) -> None:
        self._ordered = ordered
        self._connection = ordered.session.connection
        self._posts = asyncio.Semaphore(_PARALLEL_POSTS)
        self._fallback = PreferenceFallback(ordered)

    def run(self, batch: Batch, asked: Pass) -> OperationFuture[ForwardBackwardOutput]:
        """Submit a forward or forward_backward."""

        async def send() -> _Sent:
            config = await self._connection.config()
            # An embedded service says so itself; a service without a list of its losses is not ours.
            if config.losses and self._connection.address.base_url is not None:
                _tell_of_own_formula(asked.loss_fn)
            async with self._giving_up(asked.forward_only):
                data, asked_now = await self._datums(batch), await self._settled(asked)
            if unit_of(asked.loss_fn) == 2 and asked.loss_fn not in config.losses:
                return await self._send_pairs(data, asked_now, config)
            sizes = _sizes(data, asked.loss_fn, config)
            return _Sent(await self._post(split(data, sizes), asked_now, config))

        name = "forward" if asked.forward_only else "forward_backward"
        return self._ordered.submit(name, send, self._received, trains=not asked.forward_only)

    def run_custom(self, batch: list[Datum], loss_fn: CustomLoss) -> OperationFuture[ForwardBackwardOutput]:
        """Submit a forward_backward of a loss that is computed here; later operations wait until it is sent."""
        inputs = forward_data(batch)

        async def send() -> _Sent:
            return await self._send_custom(batch, inputs, loss_fn)

        return self._ordered.submit("forward_backward_custom", send, self._received, trains=True)

    async def _received(self, sent: _Sent) -> ForwardBackwardOutput:
        return sent.finish(await self._outputs(sent.request_ids))

    # -- what is computed here, in turn -------------------------------------------------------------------------------

    @asynccontextmanager
    async def _giving_up(self, forward_only: bool) -> AsyncGenerator[None]:
        """Use up a number where a batch fails before it is posted, so that no step is taken without its gradients."""
        try:
            yield
        except Exception as error:
            if not forward_only:
                self._ordered.voided = error
                if not self._ordered.lost:
                    await self._void(self._ordered.next_seq_id(), forward_only=False)
            raise

    async def _datums(self, batch: Batch) -> list[Datum]:
        if not batch or isinstance(batch[0], Datum):
            return cast("list[Datum]", batch)
        tokenizer = await find_model_tokenizer(self._ordered.created, self._connection)
        rows = cast("list[PreferenceRow]", batch)
        # On a thread: templates and tokenizers take their time over a large batch.
        return await asyncio.to_thread(render, rows, tokenizer)

    async def _settled(self, asked: Pass) -> Pass:
        """Return what is asked for once the weights that it names are saved."""
        reference = asked.loss_config.get(REFERENCE_KEY)
        # A plain text names weights that are there.
        if not isinstance(reference, SavedPath):
            return asked
        path = await settled(reference)  # pyright: ignore[reportUnknownArgumentType]
        return replace(asked, loss_config={**asked.loss_config, REFERENCE_KEY: path})

    async def _send_pairs(self, data: list[Datum], asked: Pass, config: ClientConfigResponse) -> _Sent:
        """Send pairs to a service that has no loss over them."""
        async with self._giving_up(asked.forward_only):
            references = await self._fallback.references(
                data, asked.loss_fn, asked.loss_config, keep=not asked.forward_only
            )
            loss = pair_loss(asked.loss_fn, asked.loss_config, references)
            inputs = forward_data(data)
        if not asked.forward_only:
            sent = await self._send_custom(data, inputs, loss)
            return _Sent(sent.request_ids, lambda output: with_references(sent.finish(output), references))
        parts = split(inputs, _sizes(inputs, "cross_entropy", config))
        request_ids = await self._post(parts, Pass("cross_entropy", {}, True), config)
        return _Sent(request_ids, lambda output: with_references(evaluated(output, data, loss), references))

    async def _send_custom(self, batch: list[Datum], inputs: list[Datum], loss_fn: CustomLoss) -> _Sent:
        # The turn lasts from the forward to the backward: nothing may change the weights in between.
        async with self._giving_up(forward_only=False):
            config = await self._connection.config()
            sizes = _sizes(inputs, "cross_entropy", config)
            request_ids = await self._post(split(inputs, sizes), Pass("cross_entropy", {}, True), config)
            outputs = await self._outputs(request_ids)
            # On a thread: what the caller computes may take as long as it likes.
            surrogate = await asyncio.to_thread(differentiate, batch, outputs, loss_fn)
        # The same borders as in the forward: outputs and numbers stay together.
        parts = split(surrogate.data, sizes)
        request_ids = await self._post(parts, Pass("cross_entropy", {}, False), config)
        return _Sent(request_ids, lambda output: with_custom_metrics(output, surrogate))

    # -- posts, in turn -----------------------------------------------------------------------------------------------

    async def _post(self, parts: Sequence[Sequence[Datum]], asked: Pass, config: ClientConfigResponse) -> list[str]:
        """Post the parts of a batch under consecutive numbers and return their request ids."""
        # All numbers before the first post: the service executes by number, in whatever order the parts arrive.
        numbered = [(self._ordered.next_seq_id(), part) for part in parts]
        posts = [self._post_part(seq_id, part, asked, config.proto_compress_fwdbwd) for seq_id, part in numbered]
        # Every part is sent, whatever happened to the others: a number that never arrives blocks all that follow.
        if config.parallel_fwdbwd_chunks:
            outcomes = await asyncio.gather(*posts, return_exceptions=True)
        else:
            outcomes = [await _outcome(post) for post in posts]
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return [outcome for outcome in outcomes if isinstance(outcome, str)]

    async def _post_part(self, seq_id: int, part: Sequence[Datum], asked: Pass, compress: bool) -> str:
        try:
            async with self._posts:
                # Encoded behind the semaphore, so that a large batch does not stand in memory a second time.
                content = await self._encode(seq_id, part, asked, compress)
                headers = {"Content-Type": PROTOBUF, **({"Content-Encoding": "zstd"} if compress else {})}
                return await self._ordered.post("forward_backward", content=content, headers=headers)
        except Exception:
            # Refused, so its number is still open: fill it, or the service waits for it.
            if not self._ordered.lost:
                await self._void(seq_id, asked.forward_only)
            raise

    async def _encode(self, seq_id: int, part: Sequence[Datum], asked: Pass, compress: bool) -> bytes:
        model_id = self._ordered.model_id

        def encode() -> bytes:
            body = encode_forward_backward_request(
                model_id, seq_id, part, asked.loss_fn, asked.loss_config, asked.forward_only
            )
            return zstd_compress(body) if compress else body

        large = sum(datum.nbytes for datum in part) > _LARGE_BYTES
        return await asyncio.to_thread(encode) if large else encode()

    async def _void(self, seq_id: int, forward_only: bool) -> None:
        """Use up a number with an empty batch, which no service accepts.

        It fails as a forward_backward, so that the next step is not taken: whatever else was accumulated is then
        cleared, not applied.
        """
        body = encode_forward_backward_request(self._ordered.model_id, seq_id, [], "cross_entropy", None, forward_only)
        try:
            await self._ordered.post("forward_backward", content=body, headers={"Content-Type": PROTOBUF})
        except APIStatusError as error:
            logger.info("operation %d stays void: %s", seq_id, error)

    async def _outputs(self, request_ids: list[str]) -> ForwardBackwardOutput:
        messages = await self._ordered.session.poller.messages(request_ids)
        return merge([decode_forward_backward_output(message) for message in messages])


async def _outcome(post: Awaitable[str]) -> str | BaseException:
    return (await asyncio.gather(post, return_exceptions=True))[0]


_told: set[str] = set()


def _tell_of_own_formula(loss_fn: str) -> None:
    """Say once in a process that a loss of a Tinsmith service is not the hosted one of its name."""
    loss = LOSSES.get(loss_fn)
    if loss is not None and loss.recorded and loss_fn not in _told:
        _told.add(loss_fn)
        logger.warning(OWN_FORMULA, loss_fn)


# -- cutting and merging ----------------------------------------------------------------------------------------------


def _sizes(batch: Sequence[Datum], loss_fn: str, config: ClientConfigResponse) -> list[int]:
    return chunk_sizes(batch, loss_fn, config.fwdbwd_max_chunk_len, config.fwdbwd_max_chunk_bytes_count)


def chunk_sizes(data: Sequence[Datum], loss_fn: str, most_datums: int, most_bytes: int) -> list[int]:
    """Return how many datums each request takes, greedily and in order.

    Args:
        data: any number of datums.
        loss_fn: a loss over pairs is cut between pairs only.
        most_datums: of one request, as the service's configuration says.
        most_bytes: the same, estimated as `Datum.nbytes`; a single datum (or pair) may be larger.
    """
    unit = unit_of(loss_fn)
    sizes: list[int] = []
    count = size = 0
    for start in range(0, len(data), unit):
        group = data[start : start + unit]
        group_bytes = sum(datum.nbytes for datum in group)
        if count and (count + len(group) > most_datums or size + group_bytes > most_bytes):
            sizes.append(count)
            count = size = 0
        count += len(group)
        size += group_bytes
    return [*sizes, count]


def split(items: Sequence[T], sizes: Sequence[int]) -> list[Sequence[T]]:
    """Cut a sequence into consecutive parts of the given sizes."""
    parts: list[Sequence[T]] = []
    start = 0
    for size in sizes:
        parts.append(items[start : start + size])
        start += size
    return parts


def merge(outputs: Sequence[ForwardBackwardOutput]) -> ForwardBackwardOutput:
    """Put the outputs of a call's requests together: outputs in order, metrics by the rule behind their colon."""
    return ForwardBackwardOutput(
        loss_fn_output_type=outputs[0].loss_fn_output_type,
        loss_fn_outputs=[output for part in outputs for output in part.loss_fn_outputs],
        metrics=reduce_metrics([(part.metrics, len(part.loss_fn_outputs)) for part in outputs]),
    )


# -- what callers may pass --------------------------------------------------------------------------------------------


def merge_loss_config(config: LossConfig | None, keywords: LossConfig) -> LossConfig:
    """Return the parameters of a loss, of which some came as a dict and some as keywords.

    Raises:
        UserError: one was given twice, or is neither number nor text.
    """
    merged: dict[str, float | str] = dict(config or {})
    for key, value in keywords.items():
        if key in merged:
            raise invalid(f"loss_fn_config[{key!r}]", "given twice", "one value")
        merged[key] = value
    for key, value in merged.items():
        if isinstance(value, bool) or not isinstance(value, int | float | str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise invalid(f"loss_fn_config[{key!r}]", value, "a number or a text")
    return merged
