"""Where the tokens of a datum come from: spans that name sampled sequences, which a loss may look up at the service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tinsmith.types.errors import invalid


@dataclass(frozen=True, kw_only=True)
class PromptProvenanceSpan:
    """A run of tokens that were part of a sampling request's prompt.

    Attributes:
        sequence_id: `SampledSequence.sequence_id` of a sequence that was drawn for that prompt.
        offset: position of the run in the prompt, from 0.
        length: number of tokens, from 0.

    Raises:
        UserError: the id is empty, or a number is negative.
    """

    sequence_id: str
    offset: int = 0
    length: int

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, kw_only=True)
class SampledProvenanceSpan:
    """A run of tokens that were drawn in one sampled sequence.

    Attributes:
        sequence_id: `SampledSequence.sequence_id` of that sequence.
        offset: position of the run in the sequence's sampled tokens, from 0.
        length: number of tokens, from 0.

    Raises:
        UserError: the id is empty, or a number is negative.
    """

    sequence_id: str
    offset: int = 0
    length: int

    def __post_init__(self) -> None:
        _check(self)


ProvenanceSpan = PromptProvenanceSpan | SampledProvenanceSpan
ProvenanceSpans = Sequence[ProvenanceSpan]


def _check(span: ProvenanceSpan) -> None:
    name = type(span).__name__
    if not span.sequence_id:
        raise invalid(f"{name}.sequence_id", span.sequence_id, "the sequence_id of a sampled sequence")
    for field in ("offset", "length"):
        if getattr(span, field) < 0:
            raise invalid(f"{name}.{field}", getattr(span, field), "0 or more")


def check_tiling(field: str, spans: ProvenanceSpans, length: int) -> None:
    """Check that spans cover a field from its first position to its last; a position is told by the order alone.

    Raises:
        UserError: something else than spans, or they cover more or fewer positions.
    """
    for index, span in enumerate(spans):
        if not isinstance(span, ProvenanceSpan):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise invalid(f"{field}[{index}]", span, "a PromptProvenanceSpan or a SampledProvenanceSpan")
    covered = sum(span.length for span in spans)
    if covered != length:
        raise invalid(field, f"spans over {covered} positions", f"spans over all {length}, one behind the other")
