"""What a training pass takes of memory, reckoned before it begins.

From forward to backward a pass keeps what autograd saves: so many bytes for each token, the same for long rows and
short ones, since no layer keeps a matrix of tokens by tokens. How many is asked of the model and not of its config: a
few tokens go through the decoder once, and what is saved is counted, whatever the architecture is and however its
layers are written. On top come adapters, logits, and the gradients that one layer needs at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tinsmith.engine.adapters.layouts import Layout, Target
from tinsmith.engine.adapters.slots import PassGradients, Pool, Slot
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.model.context import AdapterSpan, ForwardContext, Mode

# Two sequences of whole tiles, as wide as attention pads them to.
_PROBE_LENGTHS = (32, 32)
# The rank of the probe's adapter. With none at all autograd would keep nothing: nothing would be trained.
_PROBE_RANK = 8
# What allocators take beyond the tensors, in holes between those that were freed. Measured with glibc as resident
# memory beside the sum of tensors at the peak: 1.1 to 1.35. Where layers are computed again, much is freed between what
# stays: 2.2 to 2.6 with four layers.
_HOLES = 1.3
_HOLES_RECOMPUTING = 1.8
# What a layer's backward pass takes at a time, as a part of what the layer keeps: gradients; and where it is computed
# again, what it keeps as well.
_GRADIENTS = 1.0
_RECOMPUTED = 1.5


@dataclass(frozen=True, slots=True)
class Load:
    """What a pass computes at once.

    Attributes:
        tokens: of all lanes together.
        lanes: how many run side by side.
        rank: the largest of its adapters'.
        parameters: of all its adapters together.
        backward: whether it trains.
    """

    tokens: int
    lanes: int = 1
    rank: int = 32
    parameters: int = 0
    backward: bool = True


@dataclass(frozen=True, slots=True)
class PassMemory:
    """Bytes of a pass of one base model, by what is computed at once.

    Attributes:
        kept: what autograd keeps of a token, without adapters, bytes.
        layers: of the decoder.
        hidden: bytes of one hidden state in compute dtype.
        targets: what adapters act on in the layers.
        vocab: rows of the output projection.
        chunk: tokens that are projected at once, in each lane.
        itemsize: bytes of a number in compute dtype; `wide` in the dtype of logits and gradients.
        widened: bytes of the output projection where it is widened for its product, else 0.
        recomputes: whether a layer keeps its input alone and computes the rest again.
    """

    kept: float
    layers: int
    hidden: int
    targets: tuple[Target, ...]
    vocab: int
    chunk: int
    itemsize: int
    wide: int
    widened: int
    recomputes: bool

    @classmethod
    def of(cls, base: BaseModel, chunk: int, recomputes: bool) -> PassMemory:
        """Measure what a base model keeps; before `checkpoint_activations`, which hides it."""
        targets = tuple(target for target in base.targets if target.kind != "unembed")
        wide, itemsize = base.wide_dtype.itemsize, base.dtype.itemsize
        narrow = wide != itemsize and base.device.type == "cpu"
        return cls(
            kept=_kept_per_token(base) - _of_adapters(targets, _PROBE_RANK) * itemsize,
            layers=base.info.num_layers,
            hidden=base.info.hidden_size * itemsize,
            targets=targets,
            vocab=base.info.vocab_size,
            chunk=chunk,
            itemsize=itemsize,
            wide=wide,
            widened=base.head.weight.numel() * wide if narrow else 0,
            recomputes=recomputes,
        )

    def parameters(self, rank: int) -> int:
        """Return the parameters of an adapter on all layers."""
        return rank * sum(target.parameters for target in self.targets)

    def tensors(self, load: Load) -> float:
        """Return what the tensors of a pass take at its peak, bytes: the least that it can do with."""
        # The logits are gone when the layers' backward begins.
        part = _RECOMPUTED if self.recomputes else _GRADIENTS
        work = max(self._head(load), part * load.tokens * self._of_token(load) / self.layers)
        ends = 2 * load.tokens * self.hidden  # the last hidden states and their gradient
        if not load.backward:
            return work + ends
        kept = load.tokens * (self.layers * self.hidden if self.recomputes else self._of_token(load))
        return kept + work + ends + load.lanes * load.parameters * self.wide

    def needed(self, load: Load) -> int:
        """Return what a pass takes at its peak, bytes, with the holes that allocators leave between tensors."""
        return int((_HOLES_RECOMPUTING if self.recomputes else _HOLES) * self.tensors(load))

    def _of_token(self, load: Load) -> float:
        return self.kept + _of_adapters(self.targets, load.rank) * self.itemsize

    def _head(self, load: Load) -> float:
        rows = min(load.tokens, load.lanes * self.chunk)
        # Twice: where a part of the rows trains, their logits are copied out before they become a gradient; and once
        # more in compute dtype for the products.
        copies = 2 * self.wide + (self.itemsize if self.itemsize != self.wide else 0)
        return rows * self.vocab * copies + load.lanes * self.widened


def _of_adapters(targets: tuple[Target, ...], rank: int) -> int:
    """Numbers that adapters of a rank keep of a token: A·x at every target, of experts at each that it visits."""
    return sum(target.rank(rank) * target.experts_per_token for target in targets)


def _kept_per_token(base: BaseModel) -> float:
    """Return what autograd keeps of a token in a forward pass through the decoder, with an adapter on everything."""
    pool = Pool(Layout(base.targets, _PROBE_RANK), base.dtype, base.device)
    pool.grow(1)
    pool.seat(slot := Slot(pool, _PROBE_RANK, 0))
    weights = [*base.decoder.parameters(), *base.decoder.buffers(), pool.weights]
    # By storage: views of one tensor keep it once.
    theirs = {_storage(tensor).data_ptr() for tensor in weights}
    found: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = _storage(tensor)
        if storage.data_ptr() not in theirs:
            found[storage.data_ptr()] = storage  # held, so that none takes the place of one that was freed
        return tensor

    tokens = sum(_PROBE_LENGTHS)
    context = ForwardContext(
        Mode.PACKED,
        torch.cat([torch.arange(n) for n in _PROBE_LENGTHS]).to(base.device),
        _PROBE_LENGTHS,
        spans=(AdapterSpan(slot, 0, tokens),),
        gradients=PassGradients(base.wide_dtype),
    )
    ids = torch.zeros(tokens, dtype=torch.int64, device=base.device)
    with base.cell.use(context), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        base.hidden(ids, context)
    return sum(storage.nbytes() for storage in found.values()) / tokens


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage()
