"""The last net for architectures: a packed pass of a loaded model must give what the model's own forward gives.

A config can be silent and a module can have a familiar name; what a model computes can't lie.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tinsmith.engine.model.attention import packed_attention
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.model.context import BlockStorage, ForwardContext, Mode
from tinsmith.engine.model.lean.lean_decoder import LeanDecoder, say_modules_run
from tinsmith.engine.model.loading.architecture import unsupported
from tinsmith.engine.model.native.decoding.native_decoder import NativeDecoder
from tinsmith.types.errors import UserError, invalid

log = logging.getLogger(__name__)

# Two lengths, so that the packed pass pads one of the sequences and a token that looks across their border is seen.
_LENGTHS = (7, 5)
# Relative distance of the logits. Half precision may flip an expert's choice; a foreign architecture is wrong by a
# factor.
_TOLERANCE = 1e-3
_HALF_TOLERANCE = 0.2


def _probe_ids(vocab: int, device: torch.device) -> list[Tensor]:
    """Return token ids [tokens] of each probe sequence, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(vocab, (n,), generator=generator).to(device) for n in _LENGTHS]


@torch.no_grad()
def plain_logits(model: Any, device: torch.device) -> list[Tensor]:
    """Return logits [tokens, V] of each probe sequence, alone, by the model's own forward and attention.

    To be called before any module of the model is replaced.
    """
    ids = _probe_ids(model.get_input_embeddings().weight.shape[0], device)
    return [model(input_ids=i[None], use_cache=False).logits[0] for i in ids]


def check_numbers(where: str, fields: dict[str, Any], logits: list[Tensor]) -> None:
    """Check that a model whose weights are finite computes finite numbers, too.

    Args:
        where: what messages call its `config.json`.
        fields: of the config.
        logits: of each probe sequence.

    Raises:
        UserError: names the field that is NaN or infinite, where one is.
    """
    if all(bool(values.isfinite().all()) for values in logits):
        return
    for field, value in fields.items():
        if not all(map(math.isfinite, _numbers(value))):
            raise invalid(f"{where}: {field}", value, "a finite number")
    raise UserError(f"{where}: got fields with which finite weights give logits that are NaN or infinite")


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict | list):
        return [n for item in (value.values() if isinstance(value, dict) else value) for n in _numbers(item)]
    return [value] if isinstance(value, float) else []


class _LayerRecorder:
    """A paged attention without pages that notes which layers called it."""

    storage = None

    def __init__(self) -> None:
        self.layers: set[int] = set()

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, context: ForwardContext
    ) -> Tensor:
        self.layers.add(layer)
        return packed_attention(query, key, value, context.layout, scaling, tiled=context.products.tile > 1)


@torch.no_grad()
def check_packed(base: BaseModel, plain: list[Tensor]) -> None:
    """Compare a packed pass of all probe sequences with `plain_logits`.

    Raises:
        UserError: the two differ by more than rounding, or a layer mixes tokens elsewhere than in our attention.
    """
    name, what = base.info.name, f"architecture {base.info.architecture}"
    ids = _probe_ids(base.decoder.get_input_embeddings().weight.shape[0], base.device)  # pyright: ignore
    recorder = _LayerRecorder()
    positions = torch.cat([torch.arange(n) for n in _LENGTHS]).to(base.device)
    context = ForwardContext(Mode.PACKED, positions, _LENGTHS, paged=recorder)
    try:
        with base.cell.use(context):
            packed = base.head(base.hidden(torch.cat(ids), context)).split(_LENGTHS)
    except NotImplementedError as error:
        raise unsupported(name, f"{what} ({error})") from error
    if len(recorder.layers) != base.info.num_layers:
        raise unsupported(name, f"{what}, whose layers do not use the attention interface")
    if not all(_is_close(a, b) for a, b in zip(plain, packed, strict=True)):
        raise unsupported(name, f"{what}, which mixes tokens or scales logits in a way of its own")


def _is_close(a: Tensor, b: Tensor) -> bool:
    tolerance = _HALF_TOLERANCE if a.dtype in (torch.bfloat16, torch.float16) else _TOLERANCE
    # Not `>`: NaN compares false either way, and a model that gives NaN is not one we compute.
    return bool((a.float() - b.float()).norm() <= tolerance * a.float().norm())


@torch.no_grad()
def lean_agrees(base: BaseModel, lean: LeanDecoder) -> bool:
    """Whether a pass of the written-out decoder gives what one of the modules gives; logged where it does not."""
    ids = torch.cat(_probe_ids(base.decoder.get_input_embeddings().weight.shape[0], base.device))  # pyright: ignore
    positions = torch.cat([torch.arange(n) for n in _LENGTHS]).to(base.device)
    context = ForwardContext(Mode.PACKED, positions, _LENGTHS, paged=_LayerRecorder())
    with base.cell.use(context):
        modules = base.hidden(ids, context)
        try:
            written = lean.hidden(ids, context)
        # Layers of other shapes than the family's; what torch makes of them can be any error.
        except Exception as error:
            say_modules_run(base.info.architecture, f"{type(error).__name__}: {error}")
            return False
    if not _is_close(modules, written):
        say_modules_run(base.info.architecture, "its layers compute something else than their family's")
        return False
    return True


@contextmanager
def kept_if_it_agrees(base: BaseModel) -> Iterator[None]:
    """Replace the decoder's layers in the body; where they then compute something else, logged, they come back."""
    layers, before = base.decoder.layers, _packed(base)
    yield
    if not _is_close(before, _packed(base)):
        base.decoder.layers = layers
        log.warning(
            "%s: training runs torch's operations, slower: layers in C compute something else here",
            base.info.architecture,
        )


@torch.no_grad()
def _packed(base: BaseModel) -> Tensor:
    """Hidden states of a packed pass of all probe sequences."""
    ids = _probe_ids(base.decoder.get_input_embeddings().weight.shape[0], base.device)  # pyright: ignore
    positions = torch.cat([torch.arange(n) for n in _LENGTHS]).to(base.device)
    context = ForwardContext(Mode.PACKED, positions, _LENGTHS)
    with base.cell.use(context):
        return base.hidden(torch.cat(ids), context)


class _ProbeBlocks:
    """A cache for the probe sequences, in blocks of a few tokens, that a step reads and writes in place."""

    _SIZE = 4

    def __init__(self, base: BaseModel) -> None:
        self._each = -(-max(_LENGTHS) // self._SIZE)
        shape = (len(_LENGTHS) * self._each, self._SIZE, base.kv_heads, base.head_dim)
        keys, values = ([torch.zeros(shape, dtype=base.dtype) for _ in range(base.info.num_layers)] for _ in range(2))
        self.storage = BlockStorage(keys, values, self._SIZE)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, context: ForwardContext
    ) -> Tensor:
        raise RuntimeError("a step in C reads blocks by itself")

    def context(self, sequences: list[int], position: int) -> ForwardContext:
        """That of a step of some sequences, each with as many tokens in the cache as `position` says."""
        tables = torch.tensor([[s * self._each + i for i in range(self._each)] for s in sequences])
        cells = tables[:, position // self._SIZE] * self._SIZE + position % self._SIZE
        positions = torch.full((len(sequences),), position)
        return ForwardContext(
            Mode.DECODE,
            positions,
            (1,) * len(sequences),
            paged=self,
            slot_mapping=cells,
            block_tables=tables.to(torch.int32),
        )


@torch.no_grad()
def native_agrees(base: BaseModel, native: NativeDecoder) -> bool:
    """Whether the step in C, token by token, gives the logits of a packed pass; logged where it does not."""
    ids = _probe_ids(base.decoder.get_input_embeddings().weight.shape[0], base.device)  # pyright: ignore
    positions = torch.cat([torch.arange(n) for n in _LENGTHS])
    packed = ForwardContext(Mode.PACKED, positions, _LENGTHS, paged=_LayerRecorder())
    with base.cell.use(packed):
        wanted = base.head(base.hidden(torch.cat(ids), packed)).split(_LENGTHS)
    blocks = _ProbeBlocks(base)
    for position in range(max(_LENGTHS)):
        here = [i for i, n in enumerate(_LENGTHS) if position < n]
        context = blocks.context(here, position)
        hidden = native.hidden(torch.stack([ids[i][position] for i in here]), context)
        if not _is_close(torch.stack([wanted[i][position] for i in here]), native.logits(hidden, context)):
            # A fault of ours that the tests have not seen, or the compiler's.
            log.warning(
                "%s: decoding runs torch's operations, slower: the step in C computes something else here",
                base.info.architecture,
            )
            return False
    return True


# A sequence, and those before and behind it, so that it stands at other rows of another number of tiles.
_BEFORE, _OWN, _BEHIND = 29, 75, 90


@torch.no_grad()
def check_tiles(base: BaseModel) -> None:
    """Compare a sequence alone with the same between others, bit by bit.

    Raises:
        UserError: they differ, because a kernel of this machine looks at more than one tile's shape.
    """
    vocab = base.decoder.get_input_embeddings().weight.shape[0]  # pyright: ignore
    generator = torch.Generator().manual_seed(1)
    before, own, behind = (torch.randint(vocab, (n,), generator=generator) for n in (_BEFORE, _OWN, _BEHIND))
    alone, between = (_tile_probe(base, parts) for parts in ([own], [before, own, behind]))
    if not torch.equal(alone, between[_BEFORE : _BEFORE + _OWN]):
        raise invalid(
            "TINSMITH_BATCH_INVARIANT",
            "true",
            f"false for base model {base.info.name} ({base.info.dtype}, {base.info.device}): "
            "the matrix kernels of this machine give a row other bits beside other rows",
        )


def _tile_probe(base: BaseModel, parts: list[Tensor]) -> Tensor:
    """Return of each token the logits, and these times the output projection, as a gradient would be: [T, V + H]."""
    lengths = tuple(part.shape[0] for part in parts)
    positions = torch.cat([torch.arange(n) for n in lengths]).to(base.device)
    context = ForwardContext(Mode.PACKED, positions, lengths)
    with base.cell.use(context):
        hidden = base.hidden(torch.cat(parts).to(base.device), context)
        logits = base.head(hidden)
    return torch.cat([logits, base.products.mm(logits, base.head.weight)], 1)
