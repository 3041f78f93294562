"""From training rows to packed streams: tokens of all rows one after the other, sorted by adapter."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinsmith.engine.adapters.references import Reference
from tinsmith.engine.adapters.slots import PassGradients, Slot
from tinsmith.engine.jobs import TrainRow
from tinsmith.engine.model.context import ForwardContext, Mode, adapter_spans
from tinsmith.engine.model.head.logprobs import Pairs
from tinsmith.engine.model.padded import Head
from tinsmith.engine.training.losses import PER_POSITION, LossInputs
from tinsmith.types.facts.loss_table import LOSSES, resolve_config

Config = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class PackedRow:
    """A row with its adapter and its arrays.

    Attributes:
        index: place among the rows of the call.
        row: the row.
        slot: its adapter.
        tokens: int64 [N].
        targets: int64 [N] or [N, K].
        reference: what its loss measures against; None where it reads none.
        ref_logprobs: of the targets under it, [N]; None until they are known.
        head: its first tokens and targets that are also those of the row that leads its unit, and are computed there.
    """

    index: int
    row: TrainRow
    slot: Slot
    tokens: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    reference: Reference | None = None
    ref_logprobs: npt.NDArray[np.floating] | None = None
    head: int = 0

    @classmethod
    def of(cls, index: int, row: TrainRow, slot: Slot, reference: Reference | None = None) -> PackedRow:
        """Read a row's arrays; the row has been checked."""
        tokens = np.asarray(row.datum.model_input.to_ints(), dtype=np.int64)
        inputs = row.datum.loss_fn_inputs
        given = inputs.get("ref_logprobs")
        targets = inputs["target_tokens"].to_numpy()
        return cls(index, row, slot, tokens, targets, reference, given.to_numpy() if given is not None else None)

    @property
    def loss(self) -> tuple[str, tuple[tuple[str, float | None], ...]]:
        """The loss with its options filled in; rows that agree in it are computed together."""
        return self.row.loss_fn, tuple(resolve_config(self.row.loss_fn, dict(self.row.loss_fn_config)).items())

    @property
    def is_per_position(self) -> bool:
        """Whether the loss of every target depends on its own logprob alone."""
        return self.row.loss_fn in PER_POSITION

    def floats(self, key: str, default: float) -> npt.NDArray[np.float32]:
        """A loss input, flat, or the default at every target."""
        tensor = self.row.datum.loss_fn_inputs.get(key)
        if tensor is None:
            return np.full(self.targets.size, default, dtype=np.float32)
        return tensor.to_numpy().reshape(-1)

    def ratio_mask(self) -> npt.NDArray[np.float32]:
        """Which positions a sequence's ratio is the mean of: as the datum says, else all that train."""
        given = self.row.datum.loss_fn_inputs.get("sequence_ratio_mask")
        if given is not None:
            return given.to_numpy()
        return self.trained().astype(np.float32)

    def trained(self) -> npt.NDArray[np.bool_]:
        """Which targets' logprobs can have a gradient, flat; every loss is exactly 0 at the others."""
        trained = self.floats("weights", 1.0) != 0
        if "advantages" in LOSSES[self.row.loss_fn].required:
            trained &= self.floats("advantages", 0.0) != 0
        return trained


# Rows that are computed together: a single one, a pair whose loss is one, or rows that share a prompt, which alone may
# be parted. The first one leads.
Unit = tuple[PackedRow, ...]
# A prompt shorter than that is not worth being looked for.
_LEAST_HEAD = 16


def share_prompt(unit: Unit) -> Unit:
    """Let the second row of a pair take what comes before its completion from the first.

    The last token of the prompt stays with each row, because its target is the row's own.
    """
    if len(unit) != 2:
        return unit
    chosen, rejected = unit
    return chosen, replace(rejected, head=_common(chosen, rejected))


def _common(leader: PackedRow, row: PackedRow) -> int:
    """Return how many tokens and targets of two rows are the same up to where one of them trains."""
    # A row keeps at least one token.
    length = min(leader.tokens.size, row.tokens.size) - 1
    same = (leader.tokens[:length] == row.tokens[:length]) & (leader.targets[:length] == row.targets[:length])
    # What trains is each row's own: its logprob has a gradient from either.
    same &= ~(leader.trained()[:length] | row.trained()[:length])
    return length if same.all() else int(same.argmin())


def share_prompts(units: Sequence[Unit], most: int) -> list[Unit]:
    """Put rows that answer the same prompt into units that compute it once: the samples of a group, in RL.

    Args:
        units: of a pass, each computed in the same way with its neighbours as without.
        most: tokens of a unit that several are put into.
    """
    found: list[Unit] = []
    # Where the unit is that a row with these first tokens may join.
    places: dict[tuple[object, ...], int] = {}
    for unit in units:
        row = unit[0]
        if len(unit) > 1 or not row.is_per_position or row.targets.ndim > 1 or row.tokens.size <= _LEAST_HEAD:
            found.append(unit)
            continue
        key = (id(row.slot), row.loss, row.tokens[:_LEAST_HEAD].tobytes())
        place = places.get(key)
        if place is not None:
            led = found[place]
            joining = replace(row, head=_common(led[0], row))
            if joining.head >= _LEAST_HEAD and tokens_of((*led, joining)) <= most:
                found[place] = (*led, joining)
                continue
        places[key] = len(found)
        found.append(unit)
    return found


@dataclass(frozen=True, slots=True)
class LossGroup:
    """Pairs [start, end) of a stream, of rows that share a loss and its options."""

    loss_fn: str
    config: Config
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Stream:
    """T tokens with P (token, target) pairs, on the device.

    Attributes:
        input_ids: int64 [T].
        context: of the pass.
        pairs: what logprobs are wanted, without those of shared heads.
        places: where each of the P pairs stands in `pairs`, int64 [P]; None where every one has its own place.
    """

    input_ids: Tensor
    context: ForwardContext
    pairs: Pairs
    places: Tensor | None


@dataclass(frozen=True, slots=True)
class Losses:
    """The losses of some pairs.

    Attributes:
        inputs: of the losses, one value for each pair.
        groups: which loss applies to which pairs, in the order of the pairs.
    """

    inputs: LossInputs
    groups: tuple[LossGroup, ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """One stream with what its losses read.

    Attributes:
        rows: in stream order.
        stream: their tokens.
        losses: of all P pairs; the inputs' `rows` are places in `rows`.
        own: of the pairs in `stream`, which has those of a shared head once.
    """

    rows: tuple[PackedRow, ...]
    stream: Stream
    losses: Losses
    own: Losses


def tokens_of(unit: Unit) -> int:
    """Return the tokens that a unit adds to a stream."""
    return sum(row.tokens.size - row.head for row in unit)


def part_at(unit: Unit, room: int) -> tuple[Unit, Unit] | None:
    """Part rows that share a prompt where a lane has room for some of them; None where that makes nothing more even.

    The second part computes the prompt again.

    Args:
        unit: of any kind.
        room: tokens that the lane is to have beyond those that it has.
    """
    if len(unit) < 2 or not unit[0].is_per_position:
        return None
    ends = np.cumsum([row.tokens.size - row.head for row in unit])
    # As full as the lane can be without more than it is to have.
    first = int((ends <= room).sum())
    if first in (0, len(unit)):
        return None
    leader, *others = unit[first:]
    leader = replace(leader, head=0)
    rest = leader, *(replace(row, head=_common(leader, row)) for row in others)
    uneven = min(room, int(ends[-1]) - room)
    return (unit[:first], rest) if room - int(ends[first - 1]) + unit[first].head < uneven else None


def micro_batches(
    units: Sequence[Unit], budget: int, *, lanes: int = 1, losses_apart: bool = True
) -> list[list[PackedRow]]:
    """Sort units by adapter and cut them into batches of at most `budget` tokens; a longer unit goes alone.

    Args:
        units: what to cut.
        budget: tokens of one batch.
        lanes: how many batches are computed at once; they get about as many tokens each, and rows that share a prompt
            are parted where that is what makes them even.
        losses_apart: whether losses that need more than a position's own logprob go apart from the others, so that the
            way in which a row is computed does not depend on its neighbours' losses; else rows keep their order.
    """
    # Equal adapters side by side share a span, and adapters of one pool lie in one block of the stream. Stable, so that
    # rows of an adapter keep their order and its gradient is summed in that order.
    pools = {id(pool): i for i, pool in enumerate(dict.fromkeys(unit[0].slot.pool for unit in units))}
    total = sum(map(tokens_of, units))
    # A batch ends where its share does; alone, a lane fills one after the other.
    share = budget if lanes == 1 else total / (lanes * -(-total // (lanes * budget)))
    batches: list[list[PackedRow]] = []
    done = used = 0
    kind: bool | None = None

    def kind_of(unit: Unit) -> bool:
        return losses_apart and unit[0].is_per_position

    ordered = deque(sorted(units, key=lambda u: (kind_of(u), pools[id(u[0].slot.pool)], u[0].slot.number)))
    while ordered:
        unit = ordered.popleft()
        if lanes > 1 and kind_of(unit) == kind:
            room = min(int(len(batches) * share) - done, budget - used)
            if (parts := part_at(unit, room)) is not None:
                done -= tokens_of(parts[0]) + tokens_of(parts[1]) - tokens_of(unit)  # the total knows of one prompt
                unit, rest = parts
                ordered.appendleft(rest)
        tokens = tokens_of(unit)
        ends = used + tokens > budget or (lanes > 1 and done + tokens / 2 > len(batches) * share)
        if ends or kind_of(unit) != kind:
            batches.append([])
            used, kind = 0, kind_of(unit)
        batches[-1].extend(unit)
        used += tokens
        done += tokens
    return batches


def pack(
    rows: Sequence[PackedRow], device: torch.device, dtype: torch.dtype, gradients: PassGradients | None
) -> Packed:
    """Lay rows out as one stream.

    Args:
        rows: rows of one adapter adjacent.
        device: of the tensors.
        dtype: of the loss inputs (wide dtype).
        gradients: of the pass; None where nothing is trained.
    """
    # Worked out in numpy and moved as a handful of arrays: a tensor per row would be a transfer per row.
    losses = own = _losses(rows, [0] * len(rows), device, dtype)
    if any(r.head for r in rows):
        own = _losses(rows, [r.head for r in rows], device, dtype)
    return Packed(tuple(rows), lay_out(rows, [r.slot for r in rows], device, gradients), losses, own)


def lay_out(
    rows: Sequence[PackedRow], slots: Sequence[Slot | None], device: torch.device, gradients: PassGradients | None
) -> Stream:
    """Lay out the tokens of rows, each to be computed with the adapter at its place; None is the base alone."""
    return Stream(
        input_ids=torch.from_numpy(np.concatenate([r.tokens[r.head :] for r in rows])).to(device),
        context=_context(rows, slots, device, gradients),
        pairs=_pairs(rows, device),
        places=_places(rows, device),
    )


def _context(
    rows: Sequence[PackedRow], slots: Sequence[Slot | None], device: torch.device, gradients: PassGradients | None
) -> ForwardContext:
    heads = [r.head for r in rows]
    lengths = [r.tokens.size - r.head for r in rows]
    # From 0 again in every row, behind its head: a sequence is computed as if it were alone.
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(sum(lengths)) - np.repeat(starts - heads, lengths)
    leaders = _leaders(rows)
    return ForwardContext(
        mode=Mode.PACKED,
        positions=torch.from_numpy(positions).to(device),
        lengths=tuple(lengths),
        spans=adapter_spans(slots, lengths),
        gradients=gradients,
        heads=tuple(map(Head, leaders, heads)) if any(heads) else (),
    )


def _leaders(rows: Sequence[PackedRow]) -> list[int]:
    """Return the place of the row that each takes its head from: the last one before it that has none itself."""
    leaders: list[int] = []
    for place, row in enumerate(rows):
        leaders.append(leaders[-1] if row.head else place)
    return leaders


def _pairs(rows: Sequence[PackedRow], device: torch.device) -> Pairs:
    """Return the pairs of all targets behind the heads; a token of [N, K] targets stands in K of them."""
    lengths = [r.tokens.size - r.head for r in rows]
    per_token = np.repeat([r.targets.shape[1] if r.targets.ndim == 2 else 1 for r in rows], lengths)  # [T]
    single = bool((per_token == 1).all())
    trained = np.flatnonzero(np.concatenate([r.trained()[r.head :] for r in rows])) if single else None
    return Pairs(
        torch.from_numpy(np.repeat(np.arange(sum(lengths)), per_token)).to(device),
        torch.from_numpy(np.concatenate([r.targets[r.head :].reshape(-1) for r in rows])).to(device),
        None if trained is None else torch.from_numpy(trained).to(device),
    )


def _places(rows: Sequence[PackedRow], device: torch.device) -> Tensor | None:
    if not any(r.head for r in rows):
        return None
    sizes = [row.targets[row.head :].size for row in rows]
    starts = np.cumsum(sizes) - sizes
    places: list[npt.NDArray[np.int64]] = []
    for row, leader, start, size in zip(rows, _leaders(rows), starts.tolist(), sizes, strict=True):
        # The leader has no head, and one target per token.
        lent = int(starts[leader])
        places += [np.arange(lent, lent + row.head), np.arange(start, start + size)]
    return torch.from_numpy(np.concatenate(places)).to(device)


def _losses(rows: Sequence[PackedRow], skipped: Sequence[int], device: torch.device, dtype: torch.dtype) -> Losses:
    """Return the losses of rows without the first few pairs of each."""

    def column(array: Callable[[PackedRow], npt.NDArray[np.floating]]) -> Tensor:
        parts = [array(row)[skip:] for row, skip in zip(rows, skipped, strict=True)]
        return torch.from_numpy(np.concatenate(parts)).to(device, dtype)

    sizes = [row.targets.size - skip for row, skip in zip(rows, skipped, strict=True)]
    # What a loss does not take is filled in all the same, so that rows of different losses share a stream.
    inputs = LossInputs(
        weights=column(lambda r: r.floats("weights", 1.0)),
        logprobs=column(lambda r: r.floats("logprobs", 0.0)),
        advantages=column(lambda r: r.floats("advantages", 0.0)),
        ratio_mask=column(lambda r: r.ratio_mask()),
        reference=column(lambda r: np.zeros(r.targets.size) if r.ref_logprobs is None else r.ref_logprobs),
        rows=torch.from_numpy(np.repeat(np.arange(len(rows)), sizes)).to(device),
    )
    return Losses(inputs, _loss_groups(rows, sizes))


def _loss_groups(rows: Sequence[PackedRow], sizes: Sequence[int]) -> tuple[LossGroup, ...]:
    # The usual batch has one loss; mixed ones come from tenants that share a pass, whose rows lie side by side.
    groups: list[LossGroup] = []
    start = 0
    for (name, config), some in groupby(zip(rows, sizes, strict=True), key=lambda pair: pair[0].loss):
        end = start + sum(size for _, size in some)
        groups.append(LossGroup(name, dict(config), start, end))
        start = end
    return tuple(groups)
