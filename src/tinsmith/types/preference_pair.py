"""`PreferencePair`: two completions of one prompt, of which one is preferred."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tinsmith.types.datum import Datum
from tinsmith.types.errors import invalid


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A preference, as two datums.

    Attributes:
        chosen: the prompt with the completion that is preferred: `target_tokens` int64 [N], `weights` float32 [N] (0 at
            the prompt, 1 at the completion), and, where they are known already, `ref_logprobs` float32 [N], the
            logprobs of the targets under the reference.
        rejected: the same of the other completion; the prompt is the same.

    Raises:
        UserError: one of them is no `Datum`.
    """

    chosen: Datum
    rejected: Datum

    def __post_init__(self) -> None:
        for name in ("chosen", "rejected"):
            value = getattr(self, name)
            if not isinstance(value, Datum):
                raise invalid(f"PreferencePair.{name}", value, "a Datum")


def in_turn(pairs: Iterable[PreferencePair]) -> list[Datum]:
    """Return pairs as the wire has them: chosen, rejected, chosen, ..."""
    return [datum for pair in pairs for datum in (pair.chosen, pair.rejected)]
