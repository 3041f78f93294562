"""One training pass: packed forward, losses, backward; gradients reach the adapters only when all of it went well."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tinsmith.engine.adapters.slots import PassGradients, Slot
from tinsmith.engine.jobs import RowOutput
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.model.head.logprob_gradients import logprobs_and_gradient, target_logprobs
from tinsmith.engine.model.head.logprobs import head_spans
from tinsmith.engine.model.shards import sum_gradients
from tinsmith.engine.threads import THREADS
from tinsmith.engine.training.lanes import in_lanes
from tinsmith.engine.training.losses import LOSS_FUNCTIONS
from tinsmith.engine.training.packing import Losses, Packed, PackedRow, Stream, Unit, micro_batches, pack, tokens_of
from tinsmith.engine.training.paired_losses import PAIRED_LOSS_FUNCTIONS, pair_metrics

_FUNCTIONS = LOSS_FUNCTIONS | PAIRED_LOSS_FUNCTIONS
# Of fewer tokens a lane's products are so short that Python, which runs on one thread at a time, is what takes long.
_LANE_TOKENS = 256


def run_units(
    base: BaseModel, units: Sequence[Unit], budget: int, chunk: int, gradients: PassGradients | None
) -> dict[int, RowOutput]:
    """Compute rows in micro-batches, on a CPU several of them at once.

    Args:
        base: the base model.
        units: checked rows of any adapters; those of a unit stay together.
        budget: tokens that are computed at once, unless one unit alone has more.
        chunk: tokens to project to the vocabulary at once.
        gradients: what those of all micro-batches are added to; None where none are wanted.

    Returns:
        outputs by the rows' `index`.
    """
    lanes = lanes_of(base, [tokens_of(unit) for unit in units], budget)
    # In tiles all losses go one way, and an adapter's gradient is added in the order of its rows.
    batches = micro_batches(units, budget // lanes, lanes=lanes, losses_apart=base.products.tile == 1)
    # A buffer per lane and adapter: the loss is a sum, so that how rows are cut changes nothing but rounding. Batches
    # have fixed lanes and lanes a fixed order, so that the same pass gives the same bits.
    parts, seen = [gradients], set[Slot]()
    for lane in range(1, lanes):
        seen.update(row.slot for batch in batches[lane - 1 :: lanes] for row in batch)
        parts.append(None if gradients is None else gradients.apart(seen))

    def compute(lane: int) -> dict[int, RowOutput]:
        found = (_run_batch(base, batch, chunk, parts[lane]) for batch in batches[lane::lanes])
        return {index: output for outputs in found for index, output in outputs.items()}

    outputs = {index: output for found in in_lanes(lanes, compute, THREADS.free) for index, output in found.items()}
    if gradients is not None:
        for part in parts[1:]:
            assert part is not None
            gradients.add(part)
        # Once for all micro-batches. The head is gathered on every rank, see `base_loading`.
        if base.group is not None:
            sum_gradients(gradients, [base.head.name], base.group)
    return outputs


def lanes_of(base: BaseModel, sizes: Sequence[int], budget: int) -> int:
    """Return into how many lanes units of so many tokens are cut."""
    # A GPU computes one pass at a time anyway, ranks must reach their sums in the same order, and in tiles the order of
    # an adapter's rows is part of the result.
    if base.device.type != "cpu" or base.group is not None or base.products.tile > 1:
        return 1
    return min(len(sizes), lanes_for(sum(sizes), max(sizes), budget, THREADS.steady))


def lanes_for(tokens: int, longest: int, budget: int, most: int) -> int:
    """Return into how many lanes a pass is cut.

    That does not follow the load, only how many of them run at once does: so that a pass gives the same bits on a busy
    machine and on an idle one.

    Args:
        tokens: of the pass.
        longest: tokens of the largest part that cannot be cut.
        budget: tokens that may be computed at once, for the sake of memory.
        most: lanes that may be wanted at once.
    """
    return max(1, min(most, tokens // _LANE_TOKENS, budget // max(longest, _LANE_TOKENS)))


def _run_batch(
    base: BaseModel, batch: Sequence[PackedRow], chunk: int, gradients: PassGradients | None
) -> dict[int, RowOutput]:
    packed = pack(batch, base.device, base.wide_dtype, gradients)
    with base.cell.use(packed.stream.context), torch.set_grad_enabled(gradients is not None):
        logprobs, losses = _compute(base, packed, chunk)
    outputs = _outputs(packed, logprobs, losses)
    return {row.index: output for row, output in zip(batch, outputs, strict=True)}


def _compute(base: BaseModel, packed: Packed, chunk: int) -> tuple[Tensor, Tensor]:
    """Forward and, where gradients are wanted, backward of one micro-batch; return its logprobs and losses, [P]."""
    stream, gradients = packed.stream, packed.stream.context.gradients
    if gradients is None or not packed.rows[0].is_per_position or base.products.tile > 1:
        logprobs = stream_logprobs(base, stream, chunk)
        losses = per_position_losses(packed.losses, logprobs)
        if gradients is not None:
            # One scalar for every tenant's rows: no token sees another's sequence, so their gradients do not mix.
            losses.sum().backward()
        return logprobs.detach(), losses.detach()
    hidden = base.hidden(stream.input_ids, stream.context)  # [T, H]
    spans = head_spans(base.head, stream.context)
    logprobs, grad = logprobs_and_gradient(
        base.head, hidden, spans, stream.pairs, chunk, gradients, partial(slopes, packed.own)
    )
    # Nothing before the head is trained where all adapters act on the head alone.
    if hidden.requires_grad:
        hidden.backward(grad)
    if stream.places is not None:
        logprobs = logprobs[stream.places]
    with torch.no_grad():
        return logprobs, per_position_losses(packed.losses, logprobs)


def stream_logprobs(base: BaseModel, stream: Stream, chunk: int) -> Tensor:
    """Return the logprobs of a stream's pairs, [P]; its context must be the running pass's."""
    context = stream.context
    hidden = base.hidden(stream.input_ids, context)  # [T, H]
    logprobs = target_logprobs(
        base.head, hidden, head_spans(base.head, context), stream.pairs, chunk, context.gradients
    )
    # The second copy of a shared head is of weight 0: what comes back from there is 0, in whatever order it is added.
    return logprobs if stream.places is None else logprobs[stream.places]


def per_position_losses(losses: Losses, logprobs: Tensor, first: int = 0) -> Tensor:
    """Apply each group's loss to the pairs from `first` on: [Q] to [Q]."""
    last = first + logprobs.shape[0]
    found: list[Tensor] = [logprobs.new_zeros(0)]
    for group in losses.groups:
        low, high = max(group.start, first), min(group.end, last)
        if low < high:
            inputs = losses.inputs.at(slice(low, high))
            found.append(_FUNCTIONS[group.loss_fn](logprobs[low - first : high - first], inputs, group.config))
    return torch.cat(found)


def slopes(losses: Losses, first: int, logprobs: Tensor) -> Tensor:
    """Differentiate the summed losses of the pairs from `first` on, each of which depends on its own logprob alone."""
    if not logprobs.shape[0]:
        return logprobs
    with torch.enable_grad():
        leaf = logprobs.detach().requires_grad_()
        total = per_position_losses(losses, leaf, first).sum()
    return torch.autograd.grad(total, leaf)[0]


def _outputs(packed: Packed, logprobs: Tensor, losses: Tensor) -> list[RowOutput]:
    """Cut logprobs and losses into rows; one transfer each."""
    # Summed on the device in the wide dtype; Python floats are float64 and lose nothing more.
    sums = losses.new_zeros(len(packed.rows)).index_add_(0, packed.losses.inputs.rows, losses).tolist()
    sizes = [r.targets.size for r in packed.rows]
    parts = np.split(logprobs.cpu().numpy(), np.cumsum(sizes)[:-1])
    metrics = _metrics(packed, logprobs)
    return [
        RowOutput(
            part.reshape(row.targets.shape),
            total,
            metrics.get(place, {}),
            None if row.ref_logprobs is None else row.ref_logprobs.astype(part.dtype, copy=False),
        )
        for place, (row, part, total) in enumerate(zip(packed.rows, parts, sums, strict=True))
    ]


def _metrics(packed: Packed, logprobs: Tensor) -> dict[int, dict[str, float]]:
    """Return what losses over pairs tell of each row, by its place in the pass."""
    found: dict[int, dict[str, float]] = {}
    for group in packed.losses.groups:
        if group.loss_fn not in PAIRED_LOSS_FUNCTIONS:
            continue
        pairs = slice(group.start, group.end)
        inputs, lp = packed.losses.inputs.at(pairs), logprobs[pairs]
        places = torch.unique_consecutive(inputs.rows).tolist()
        of_pairs = pair_metrics(group.loss_fn, lp, inputs, group.config)  # [B] each
        columns = {f"{name}:mean": values.tolist() for name, values in of_pairs.items()}
        for i, place in enumerate(places):
            found[place] = {name: column[i // 2] for name, column in columns.items()}
    return found
