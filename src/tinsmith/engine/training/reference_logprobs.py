"""Logprobs under a reference: computed once for each pair of rows, and kept."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from tinsmith.engine.adapters.memory import SlotMemory
from tinsmith.engine.adapters.references import Reference
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.training.packing import PackedRow, Unit, lay_out
from tinsmith.engine.training.training_pass import stream_logprobs

_Arrays = tuple[npt.NDArray[np.floating], ...]
# What an entry takes beside its numbers: its key, its arrays' heads, its place in the dict.
_ENTRY_BYTES = 400


class ReferenceLogprobs:
    """Fills in the reference logprobs of rows.

    Every unit has a forward pass of its own. So its numbers depend on nothing else, to the last bit: not on its
    neighbours in a batch, and not on whether they were kept from an earlier epoch or are computed anew in a replay.

    Args:
        base: the base model.
        chunk: tokens to project to the vocabulary at once.
        limit_bytes: what may be kept; beyond it the longest unused go.
        memory: where the references are.
    """

    def __init__(self, base: BaseModel, chunk: int, limit_bytes: int, memory: SlotMemory) -> None:
        self._base = base
        self._memory = memory
        self._chunk = chunk
        self._limit = limit_bytes
        self._kept: OrderedDict[bytes, _Arrays] = OrderedDict()
        self._bytes = 0
        self.computed = 0

    def fill_in(self, units: Sequence[Unit]) -> list[Unit]:
        """Return the units with `ref_logprobs` in every row whose loss reads them; given ones stay."""
        return [self._fill_in(unit) for unit in units]

    def _fill_in(self, unit: Unit) -> Unit:
        reference = unit[0].reference
        if reference is None or all(row.ref_logprobs is not None for row in unit):
            return unit
        found = self._logprobs(unit, reference)
        return tuple(
            row if row.ref_logprobs is not None else replace(row, ref_logprobs=logprobs)
            for row, logprobs in zip(unit, found, strict=True)
        )

    def _logprobs(self, unit: Unit, reference: Reference) -> _Arrays:
        key = _key(unit, reference)
        found = self._kept.get(key)
        if found is None:
            found = self._kept[key] = self._compute(unit, reference)
            self._bytes += _nbytes(found)
            while self._bytes > self._limit:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= _nbytes(dropped)
        else:
            self._kept.move_to_end(key)
        return found

    def _compute(self, unit: Unit, reference: Reference) -> _Arrays:
        if reference.slot is not None:
            self._memory.use([reference.slot])
        stream = lay_out(unit, [reference.slot] * len(unit), self._base.device, None)
        with self._base.cell.use(stream.context), torch.no_grad():
            logprobs = stream_logprobs(self._base, stream, self._chunk)
        self.computed += len(unit)
        return tuple(np.split(logprobs.cpu().numpy(), np.cumsum([row.targets.size for row in unit])[:-1]))


def _key(unit: Sequence[PackedRow], reference: Reference) -> bytes:
    digest = hashlib.sha256(reference.identity)
    for row in unit:
        digest.update(row.tokens.size.to_bytes(8, "big") + row.tokens.tobytes() + row.targets.tobytes())
    return digest.digest()


def _nbytes(arrays: _Arrays) -> int:
    return _ENTRY_BYTES + sum(array.nbytes for array in arrays)
