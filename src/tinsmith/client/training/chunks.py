"""Cutting a batch into requests of bounded size, and putting their outputs together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from tinsmith.types.datum import Datum
from tinsmith.types.errors import invalid
from tinsmith.types.outputs import ForwardBackwardOutput, reduce_metrics

T = TypeVar("T")

# Losses whose datums come in pairs that one request must hold whole.
_PAIRED_LOSSES = frozenset({"dpo"})


def chunk_sizes(data: Sequence[Datum], loss_fn: str, most_datums: int, most_bytes: int) -> list[int]:
    """Return how many datums each request takes, greedily and in order.

    Args:
        data: the batch.
        loss_fn: a loss over pairs is cut between pairs only.
        most_datums: of one request.
        most_bytes: of one request, estimated; a single datum (or pair) may be larger.
    """
    unit = 2 if loss_fn in _PAIRED_LOSSES else 1
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


def check_batch(data: Sequence[Datum]) -> list[Datum]:
    """Return the batch as a list.

    Raises:
        UserError: it is empty, or something in it is no `Datum`.
    """
    batch = list(data)
    if not batch:
        raise invalid("data", "no datums", "at least one Datum")
    for index, datum in enumerate(batch):
        if not isinstance(datum, Datum):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise invalid(f"data[{index}]", datum, "a Datum")
    return batch
