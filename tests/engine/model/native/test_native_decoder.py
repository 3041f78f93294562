"""The decoding step in C against the written-out decoder in torch, over the same cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.checkpoints import checkpoint, make_checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.examples import examples
from tests.support.sampling import make_job, random_prompt, samples
from tinsmith.engine.adapters.slots import Slot
from tinsmith.engine.engine import Engine
from tinsmith.engine.model.context import ForwardContext, Mode, adapter_spans
from tinsmith.engine.model.head.logprobs import head_spans, project
from tinsmith.engine.model.loading import base_loading
from tinsmith.engine.model.loading.probe import native_agrees
from tinsmith.engine.model.native.compiler import library
from tinsmith.engine.model.native.decoding.native_decoder import NativeDecoder
from tinsmith.engine.model.workspace import Workspace
from tinsmith.engine.sampling.cache.kv_cache import KVCache, KVShape
from tinsmith.engine.sampling.cache.paged_attention import PagedPass
from tinsmith.engine.threads import THREADS
from tinsmith.types.params import LoraConfig

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler here")

# With norms of the heads, with biases, and with neither.
FAMILIES = ("qwen3", "qwen2", "llama")
LORAS = {
    "8": LoraConfig(rank=8),
    "3": LoraConfig(rank=3, train_mlp=False),
    "32": LoraConfig(rank=32, train_attn=False),
    "20": LoraConfig(rank=20, train_unembed=False),
}


def make_engine(family: str, **settings: Any) -> Engine:
    engine = load_engine(checkpoint(family), **settings)
    for seed, (name, lora) in enumerate(LORAS.items()):
        engine.create_model(name, lora)
        randomise_adapter(engine, name, seed)
    return engine


@pytest.fixture(scope="module")
def engines() -> dict[str, Engine]:
    return {family: make_engine(family) for family in FAMILIES}


def native(engine: Engine) -> NativeDecoder:
    assert engine.base.native is not None
    return engine.base.native


class Steps:
    """Sequences with random keys and values behind them, each about to compute one token, or some of a prompt.

    Args:
        engine: whose model it is.
        starts: keys of each.
        owners: adapter of each, None for the base alone.
        block_size: of the cache.
        lengths: tokens of each that are part of a prompt; None for a decoding step.
    """

    def __init__(
        self,
        engine: Engine,
        starts: list[int],
        owners: list[str | None],
        block_size: int = 4,
        lengths: list[int] | None = None,
    ) -> None:
        base = engine.base
        self.base, self.starts = base, starts
        self.slots: list[Slot | None] = [None if o is None else engine.adapters.get(o).slot for o in owners]
        self.mode = Mode.DECODE if lengths is None else Mode.PREFILL
        self.lengths = lengths or [1] * len(starts)
        widest = max(start + length - 1 for start, length in zip(starts, self.lengths, strict=True)) // block_size + 1
        shape = KVShape(base.info.num_layers, base.kv_heads, base.head_dim, base.dtype)
        self.cache = KVCache(shape, block_size, len(starts) * widest + 1, base.device)
        # Block tables in no order, as a cache has them after a while.
        generator = torch.Generator().manual_seed(len(starts))
        self.tables = 1 + torch.randperm(len(starts) * widest, generator=generator).view(len(starts), widest)
        self.cache.prepare(self.tables.flatten().tolist())
        for stored in (*self.cache.storage.keys, *self.cache.storage.values):
            stored.copy_(torch.randn(stored.shape, generator=generator))
        self.ids = torch.randint(base.info.vocab_size, (sum(self.lengths),), generator=generator)

    def context(self, some: list[int]) -> ForwardContext:
        starts, lengths = [self.starts[i] for i in some], [self.lengths[i] for i in some]
        positions = torch.cat([torch.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
        tables, size = self.tables[some], self.cache.block_size
        own = tables.repeat_interleave(torch.tensor(lengths), 0)
        cells = own.gather(1, (positions // size)[:, None])[:, 0] * size + positions % size
        return ForwardContext(
            self.mode,
            positions,
            tuple(lengths),
            adapter_spans([self.slots[i] for i in some], lengths),
            paged=PagedPass(self.cache, starts),
            slot_mapping=cells,
            block_tables=tables.to(torch.int32),
            workspace=Workspace(),
        )

    @torch.no_grad()
    def in_c(self, some: list[int] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states and logits of some sequences with one token each, of all sequences by default."""
        some = list(range(len(self.starts))) if some is None else some
        context = self.context(some)
        step = self.base.native
        assert step is not None
        assert step.takes(context)
        ids = self.ids if len(some) == len(self.starts) else self.ids[some]
        hidden = step.hidden(ids, context)
        return hidden, step.logits(hidden, context)

    @torch.no_grad()
    def in_torch(self) -> torch.Tensor:
        assert self.base.lean is not None
        context = self.context(list(range(len(self.starts))))
        with self.base.cell.use(context):
            return self.base.lean.hidden(self.ids, context)

    def stored(self) -> list[torch.Tensor]:
        """What the cache holds of all sequences."""
        tables = self.tables.to(torch.int32)
        return [x.clone() for i in range(self.base.info.num_layers) for x in self.cache.gather(i, tables)]


@pytest.mark.row(204, 206)
@examples(60)
@given(
    st.sampled_from(FAMILIES),
    # Runs of sequences with one adapter, so that spans are of all lengths and begin anywhere in a vector.
    st.lists(st.tuples(st.sampled_from([None, *LORAS]), st.integers(1, 21)), min_size=1, max_size=6),
    st.sampled_from([1, 3, 4, 16, 40]),
    st.integers(0, 2**31),
)
def test_a_step_in_c_is_the_one_in_torch(
    engines: dict[str, Engine], family: str, runs: list[tuple[str | None, int]], block_size: int, seed: int
) -> None:
    owners = [owner for owner, count in runs for _ in range(count)]
    starts = np.random.default_rng(seed).integers(0, 50, len(owners)).tolist()
    steps = Steps(engines[family], starts, owners, block_size)
    wanted = steps.in_torch()
    kept = steps.stored()
    found, logits = steps.in_c()
    assert (found - wanted).abs().max() <= 2e-5 * wanted.abs().max()
    # The output projection with its adapters, from the same hidden states.
    for i, slot in enumerate(steps.slots):
        head = steps.base.head
        row = wanted[i] @ head.weight.t()
        views = None if slot is None else slot.pool.views(head.name)
        if slot is not None and views is not None:
            a, b = (view[slot.index] for view in views)
            row = row + slot.scale(head.name) * (b @ (a @ wanted[i]))
        assert (logits[i] - row).abs().max() <= 5e-5 * row.abs().max()
    for one, other in zip(kept, steps.stored(), strict=True):
        assert (one - other).abs().max() <= 2e-5 * one.abs().max()


@pytest.mark.row(204, 206)
@examples(40)
@given(
    st.sampled_from(FAMILIES),
    # Keys that are there, and tokens of the prompt behind them.
    st.lists(
        st.tuples(st.sampled_from([None, *LORAS]), st.one_of(st.just(0), st.integers(0, 70)), st.integers(1, 25)),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([1, 3, 4, 16, 40]),
)
def test_a_few_tokens_of_prompts_in_c_are_those_in_torch(
    engines: dict[str, Engine], family: str, parts: list[tuple[str | None, int, int]], block_size: int
) -> None:
    # Equal adapters side by side, as the sampler has them.
    parts = sorted(parts, key=lambda part: str(part[0]))
    owners, starts, lengths = (list(column) for column in zip(*parts, strict=True))
    steps = Steps(engines[family], starts, owners, block_size, lengths)
    wanted = steps.in_torch()
    kept = steps.stored()
    found, _ = steps.in_c()
    assert (found - wanted).abs().max() <= 2e-5 * wanted.abs().max()
    for one, other in zip(kept, steps.stored(), strict=True):
        assert (one - other).abs().max() <= 2e-5 * one.abs().max()


@pytest.mark.row(204, 206)
@examples(40)
@given(
    st.sampled_from(FAMILIES),
    st.lists(st.tuples(st.sampled_from([None, *LORAS]), st.integers(1, 21)), min_size=1, max_size=6),
    st.integers(0, 2**31),
)
@torch.no_grad()
def test_logits_of_any_hidden_states_are_those_of_torch(
    engines: dict[str, Engine], family: str, runs: list[tuple[str | None, int]], seed: int
) -> None:
    engine, step = engines[family], native(engines[family])
    slots = [None if owner is None else engine.adapters.get(owner).slot for owner, count in runs for _ in range(count)]
    assert step.projects(len(slots))
    head = engine.base.head
    hidden = torch.randn(len(slots), head.in_features, generator=torch.Generator().manual_seed(seed))
    lengths = [1] * len(slots)
    context = ForwardContext(Mode.PACKED, hidden, tuple(lengths), adapter_spans(slots, lengths))
    wanted, found = project(head, hidden, head_spans(head, context)), step.logits(hidden, context).clone()
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 2e-5 * wanted.abs().max()
    # Laid out by columns, as a view can be.
    assert torch.equal(step.logits(hidden.t().contiguous().t(), context), found)


def test_logits_of_many_rows_are_left_to_torch(engines: dict[str, Engine]) -> None:
    assert native(engines["llama"]).projects(128)
    assert not native(engines["llama"]).projects(129)


def test_long_prompts_and_those_behind_many_keys_run_in_torch(engines: dict[str, Engine]) -> None:
    def taken(starts: list[int], lengths: list[int]) -> bool:
        steps = Steps(engines["llama"], starts, [None] * len(starts), 16, lengths)
        return native(engines["llama"]).takes(steps.context(list(range(len(starts)))))

    assert taken([0], [128])
    assert taken([0, 16], [64, 64])
    assert not taken([0], [129])
    assert not taken([0] * 9, [16] * 9)
    assert taken([32768 // 16 - 16], [16])
    assert not taken([32768 // 16], [16])


@pytest.mark.row(207)
@pytest.mark.parametrize("family", FAMILIES)
def test_bits_follow_neither_company_nor_threads(
    engines: dict[str, Engine], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners: list[str | None] = [None] * 5 + ["8"] * 20 + [None] * 3 + ["32"] * 2 + ["3"] * 11
    steps = Steps(engines[family], [(7 * i) % 50 for i in range(len(owners))], owners)
    monkeypatch.setattr(THREADS, "free", 1)
    alone, logits = steps.in_c()
    alone, logits = alone.clone(), logits.clone()
    for threads in (2, 3, 7):
        monkeypatch.setattr(THREADS, "free", threads)
        again, again_logits = steps.in_c()
        assert torch.equal(again, alone)
        assert torch.equal(again_logits, logits)
    # A part of each run, at other places in their vectors. A run of so few as fit into half a vector stays one: its
    # adapter's sums have an order of their own, and so have those of few sequences in all.
    some = [0, 3, 4, *range(6, 24), 25, 28, *range(31, 41)]
    part, part_logits = steps.in_c(some)
    assert torch.equal(part, alone[some])
    assert torch.equal(part_logits, logits[some])


@pytest.mark.row(207)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("count", [3, 13])
def test_an_adapter_that_is_not_finite_stays_among_its_own(bad: float, count: int) -> None:
    engine = make_engine("qwen3")
    owners: list[str | None] = ["8"] * 3 + ["32"] * count + ["20"] * 6 + [None] * 2
    steps = Steps(engine, [11] * len(owners), owners)
    before, logits = (x.clone() for x in steps.in_c())
    engine.adapters.get("32").slot.flat.fill_(bad)
    after, after_logits = steps.in_c()
    others = [i for i, owner in enumerate(owners) if owner != "32"]
    mine = [i for i, owner in enumerate(owners) if owner == "32"]
    assert torch.equal(after[others], before[others])
    assert torch.equal(after_logits[others], logits[others])
    assert not after_logits[mine].isfinite().any(1).all()


# Widths that are no multiple of a register, of one register, of some, and the widest.
@pytest.mark.parametrize("head_dim", [6, 8, 20, 32, 64, 80, 96, 128, 256])
def test_heads_of_any_width(head_dim: int, tmp_path: Path) -> None:
    engine = load_engine(make_checkpoint(tmp_path, "qwen3", head_dim=head_dim))
    steps = Steps(engine, [0, 1, 15, 16, 17, 49], [None] * 6, 16)
    wanted, (found, _) = steps.in_torch(), steps.in_c()
    assert (found - wanted).abs().max() <= 2e-5 * wanted.abs().max()


def test_heads_that_are_too_wide_stay_with_torch(tmp_path: Path) -> None:
    assert load_engine(make_checkpoint(tmp_path, "llama", head_dim=272)).base.native is None


def test_keys_far_apart_lose_nothing() -> None:
    # Scores of a thousand and more: the largest comes last, first or in the middle.
    engine = make_engine("llama")
    steps = Steps(engine, [40, 40, 40], [None, None, None])
    for i, place in enumerate((0, 20, 39)):
        for keys in steps.cache.storage.keys:
            keys.view(-1, *keys.shape[2:])[steps.tables[i, place // 4] * 4 + place % 4] *= 1e4
    wanted, (found, _) = steps.in_torch(), steps.in_c()
    assert found.isfinite().all()
    assert (found - wanted).abs().max() <= 2e-4 * wanted.abs().max()


def test_more_sequences_than_a_step_takes_run_in_torch(engines: dict[str, Engine]) -> None:
    most = int(getattr(library(), "most_tokens")())  # noqa: B009, the library's functions have no stubs
    few, many = (Steps(engines["llama"], [0] * n, [None] * n) for n in (most, most + 1))
    assert native(engines["llama"]).takes(few.context(list(range(most))))
    assert not native(engines["llama"]).takes(many.context(list(range(most + 1))))


def answers(engine: Engine) -> list[tuple[list[int], list[float]]]:
    for name in ("8", "3"):
        engine.snapshot(name, name)
    engine.load_sampler("base", None)
    work = [
        make_job(("base", "8", "3")[i % 3], random_prompt(1 + 13 * i % 60, i), 2, seed=i, max_tokens=3 + 7 * i % 31)
        for i in range(9)
    ]
    return [(s.tokens, s.logprobs or []) for _, response in samples(engine, work) for s in response.sequences]


@pytest.mark.row(204)
@pytest.mark.parametrize("family", [*FAMILIES, "qwen3_moe"])
def test_samples_are_those_of_torch(family: str) -> None:
    with_c, without = (make_engine(family, native_kernels=on) for on in (True, False))
    # Experts are modules of their own.
    assert (with_c.base.native is None) == (family == "qwen3_moe")
    assert without.base.native is None
    found, wanted = answers(with_c), answers(without)
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in wanted]
    for (_, a), (_, b) in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_other_dtypes_and_tiles_stay_with_torch() -> None:
    assert load_engine(checkpoint("llama"), dtype="float64").base.native is None
    assert load_engine(checkpoint("llama"), batch_invariant=True).base.native is None


def test_a_step_that_computes_something_else_is_not_used(
    engines: dict[str, Engine], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def spoilt(*args: Any, make: Any = base_loading.native_decoder) -> NativeDecoder:
        step = make(*args)
        step._layers[0].scaling *= 1.5
        return step

    monkeypatch.setattr(base_loading, "native_decoder", spoilt)
    assert load_engine(checkpoint("llama")).base.native is None
    assert "the step in C computes something else" in caplog.text
    assert native_agrees(engines["llama"].base, native(engines["llama"]))
