"""The decoding step in C for bfloat16, against the modules that training uses; where a processor has tiles for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.support.checkpoints import DENSE_FAMILIES, checkpoint, make_checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.examples import examples
from tests.support.sampling import learner_logprobs, make_job, random_prompt, run_all, samples
from tinsmith.engine.adapters.slots import Slot
from tinsmith.engine.engine import Engine
from tinsmith.engine.model.attention import packed_attention
from tinsmith.engine.model.context import BlockStorage, ForwardContext, Mode, adapter_spans
from tinsmith.engine.model.head.logprobs import head_spans, project
from tinsmith.engine.model.native.compiler import library
from tinsmith.engine.threads import THREADS
from tinsmith.types.errors import UserError
from tinsmith.types.outputs import SampleResponse
from tinsmith.types.params import LoraConfig

_library = library()
pytestmark = pytest.mark.skipif(
    _library is None or not _library.offers_bfloat16(), reason="this processor does not multiply tiles of bfloat16"
)
BLOCK = 16
RANKS = (8, 3, 32, 16, 64)


class Blocks:
    """A cache of sequences of one length, in blocks, or attention of whole sequences without one."""

    def __init__(self, engine: Engine, sequences: int, length: int) -> None:
        base = engine.base
        self.each = -(-length // BLOCK)
        shape = (sequences * self.each, BLOCK, base.kv_heads, base.head_dim)
        # What a sequence has not written yet is whatever the block's last owner left.
        keys, values = (
            [torch.full(shape, torch.nan, dtype=base.dtype) for _ in range(base.info.num_layers)] for _ in range(2)
        )
        self.storage = BlockStorage(keys, values, BLOCK)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, context: ForwardContext
    ) -> Tensor:
        return packed_attention(query, key, value, context.layout, scaling)


def make_engine(folder: Path) -> Engine:
    engine = load_engine(folder, dtype="bfloat16")
    for seed, rank in enumerate(RANKS):
        engine.create_model(f"m{seed}", LoraConfig(rank=rank, train_mlp=seed != 1))
        randomise_adapter(engine, f"m{seed}", seed)
    return engine


def slots_of(engine: Engine, owners: str) -> list[Slot | None]:
    return [None if o == "-" else engine.adapters.get(f"m{o}").slot for o in owners]


def stepped(engine: Engine, ids: Tensor, slots: Sequence[Slot | None]) -> Tensor:
    """Logits [S, n, V] of sequences [S, n], token by token."""
    base, (count, length) = engine.base, ids.shape
    assert base.native is not None
    blocks = Blocks(engine, count, length)
    tables = torch.arange(count * blocks.each).view(count, -1)
    found: list[Tensor] = []
    for position in range(length):
        context = ForwardContext(
            Mode.DECODE,
            torch.full((count,), position),
            (1,) * count,
            adapter_spans(slots, [1] * count),
            paged=blocks,
            slot_mapping=tables[:, position // BLOCK] * BLOCK + position % BLOCK,
            block_tables=tables.to(torch.int32),
        )
        assert base.native.takes(context)
        hidden = base.native.hidden(ids[:, position].contiguous(), context)
        found.append(base.native.logits(hidden, context).clone())
    return torch.stack(found, 1)


def at_once(engine: Engine, ids: Tensor, slots: Sequence[Slot | None]) -> Tensor:
    """The same as prompts in one pass."""
    base, (count, length) = engine.base, ids.shape
    assert base.native is not None
    blocks = Blocks(engine, count, length)
    cells = (torch.arange(count)[:, None] * blocks.each * BLOCK + torch.arange(length)).flatten()
    context = ForwardContext(
        Mode.PREFILL,
        torch.arange(length).repeat(count),
        (length,) * count,
        adapter_spans(slots, (length,) * count),
        paged=blocks,
        slot_mapping=cells,
        block_tables=torch.arange(count * blocks.each, dtype=torch.int32).view(count, -1),
    )
    assert base.native.takes(context)
    hidden = base.native.hidden(ids.flatten(), context)
    return base.native.logits(hidden, context).view(count, length, -1)


def packed(engine: Engine, ids: Tensor, slots: Sequence[Slot | None]) -> Tensor:
    """The same by the modules."""
    base, (count, length) = engine.base, ids.shape
    lengths = (length,) * count
    positions = torch.arange(length).repeat(count)
    blocks = Blocks(engine, count, length)
    context = ForwardContext(Mode.PACKED, positions, lengths, adapter_spans(slots, lengths), paged=blocks)
    with base.cell.use(context):
        hidden = base.hidden(ids.flatten(), context)
        return project(base.head, hidden, head_spans(base.head, context)).view(count, length, -1)


def draw_ids(engine: Engine, count: int, length: int) -> Tensor:
    return torch.randint(engine.info.vocab_size, (count, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", DENSE_FAMILIES)
@pytest.mark.parametrize(
    "owners",
    # No adapter, one, one of a scale that is no power of two, several of other ranks with tokens of the base between
    # them, and more tokens than a tile has.
    ["---", "0", "11", "0-1122-34", "2" * 17, "0" * 7 + "3" * 20 + "-" * 9 + "1" * 3 + "4" * 30],
)
@torch.no_grad()
def test_steps_equal_the_modules(family: str, owners: str) -> None:
    engine = make_engine(checkpoint(family))
    slots, ids = slots_of(engine, owners), draw_ids(engine, len(owners), 20)
    wanted, found = packed(engine, ids, slots), stepped(engine, ids, slots)
    assert (found - wanted).norm() <= 5e-3 * wanted.norm()
    # Nearly all numbers are rounded alike.
    assert ((found - wanted).abs() <= 1e-5 * wanted.abs().max()).float().mean() > 0.5


@torch.no_grad()
def test_sizes_that_fill_no_tile(tmp_path: Path) -> None:
    engine = make_engine(
        make_checkpoint(tmp_path, "qwen2", hidden_size=56, intermediate_size=74, vocab_size=301, head_dim=16)
    )
    slots = slots_of(engine, "0-1122-34")
    ids = draw_ids(engine, len(slots), 20)
    wanted, found = packed(engine, ids, slots), stepped(engine, ids, slots)
    assert (found - wanted).norm() <= 5e-3 * wanted.norm()


@pytest.mark.parametrize("family", DENSE_FAMILIES)
@torch.no_grad()
def test_a_prompt_has_the_same_bits_at_once_as_token_by_token(family: str) -> None:
    engine = make_engine(checkpoint(family))
    slots, ids = slots_of(engine, "0-1134"), draw_ids(engine, 6, 21)
    assert torch.equal(at_once(engine, ids, slots), stepped(engine, ids, slots))


@torch.no_grad()
def test_a_token_has_the_same_bits_in_any_company() -> None:
    engine = make_engine(checkpoint("qwen3"))
    owners = "-0112223344"
    slots, ids = slots_of(engine, owners), draw_ids(engine, len(owners), 40)
    together = stepped(engine, ids, slots)
    for i, slot in enumerate(slots):
        assert torch.equal(stepped(engine, ids[i : i + 1], [slot])[0], together[i])


@pytest.fixture(scope="module")
def qwen3() -> Engine:
    return make_engine(checkpoint("qwen3"))


@examples(40)
@given(
    # Runs of sequences with one adapter, so that spans are of all lengths and begin anywhere in a tile.
    st.lists(st.tuples(st.sampled_from("-01234"), st.integers(1, 21)), min_size=1, max_size=8),
    st.integers(1, 7),
    st.randoms(use_true_random=False),
)
@torch.no_grad()
def test_bits_follow_neither_company_nor_threads(
    qwen3: Engine, runs: list[tuple[str, int]], threads: int, random: Random
) -> None:
    owners = "".join(owner * count for owner, count in runs)
    slots, ids = slots_of(qwen3, owners), draw_ids(qwen3, len(owners), 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(THREADS, "free", threads)
        together = stepped(qwen3, ids, slots)
    some = sorted(random.sample(range(len(owners)), random.randint(1, len(owners))))
    apart = stepped(qwen3, ids[some], [slots[i] for i in some])
    assert torch.equal(apart, together[some])


@torch.no_grad()
def test_logits_of_any_hidden_states_are_those_of_the_modules(qwen3: Engine) -> None:
    slots = slots_of(qwen3, "0-1122-34" + "4" * 40)
    base, lengths = qwen3.base, [1] * len(slots)
    assert base.native is not None
    hidden = torch.randn(len(slots), base.head.in_features, generator=torch.Generator().manual_seed(1)).bfloat16()
    context = ForwardContext(Mode.PACKED, hidden, tuple(lengths), adapter_spans(slots, lengths))
    wanted, found = project(base.head, hidden, head_spans(base.head, context)), base.native.logits(hidden, context)
    assert (found - wanted).norm() <= 2e-3 * wanted.norm()


@examples(20)
@given(
    st.lists(st.tuples(st.sampled_from("-01234"), st.integers(1, 21)), min_size=1, max_size=8),
    st.sampled_from([float("nan"), float("inf")]),
)
@torch.no_grad()
def test_an_adapter_that_is_not_finite_stays_among_its_own(
    qwen3: Engine, runs: list[tuple[str, int]], poison: float
) -> None:
    owners = "".join(owner * count for owner, count in runs)
    slots, ids = slots_of(qwen3, owners), draw_ids(qwen3, len(owners), 2)
    before, bad = stepped(qwen3, ids, slots), qwen3.adapters.get("m2").slot.flat
    kept = bad.clone()
    bad.fill_(poison)
    after = stepped(qwen3, ids, slots)
    bad.copy_(kept)
    others = [i for i, owner in enumerate(owners) if owner != "2"]
    assert torch.equal(after[others], before[others])
    assert not after[[i for i, owner in enumerate(owners) if owner == "2"]].isfinite().any()


@pytest.mark.parametrize("family", DENSE_FAMILIES)
def test_the_learner_recomputes_what_was_sampled(family: str) -> None:
    engine = make_engine(checkpoint(family))
    assert engine.base.native is not None
    for i in range(len(RANKS)):
        engine.snapshot(f"m{i}", f"m{i}")
    # The longest has more keys than are read at once.
    lengths = (1, 16, 33, 47, 70, 100, 190, 560)
    jobs = [make_job(f"m{i % 5}", random_prompt(n, i), 3, seed=i, max_tokens=40) for i, n in enumerate(lengths)]
    differences: list[float] = []
    for job, response in samples(engine, jobs):
        for sequence in response.sequences:
            full = learner_logprobs(engine, job.sampler_id, job.prompt + sequence.tokens)
            differences += np.abs(np.array(sequence.logprobs) - full[len(job.prompt) - 1 :]).tolist()
    # All is rounded alike, but for a sum now and then that is about to be rounded either way.
    assert np.mean(np.array(differences) < 1e-5) > 0.9
    assert np.mean(differences) < 5e-4
    assert max(differences) < 0.1


def test_it_can_be_switched_off() -> None:
    engine = load_engine(checkpoint("llama"), dtype="bfloat16", native_kernels=False)
    assert engine.base.native is None


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_numbers_that_diverged_stay_with_their_adapter(poison: float) -> None:
    engine = make_engine(checkpoint("qwen3"))
    for name in ("m0", "m2"):
        engine.snapshot(name, name)
    good = [make_job("m0", random_prompt(9 + i, i), 3, max_tokens=20) for i in range(3)]
    wanted = [[(s.tokens, s.logprobs) for s in r.sequences] for _, r in samples(engine, good)]
    # It samples for a while, together with the others, before its weights go.
    bad = [make_job("m2", random_prompt(9 + i, i), 3, max_tokens=20) for i in range(3)]
    again = [make_job("m0", job.prompt, 3, max_tokens=20) for job in good]
    for job in (*bad, *again):
        engine.sampler.add(job)
    for _ in range(4):
        assert engine.sampler.step() == []
    snapshot = engine.snapshots.acquire("m2")
    assert snapshot.slot is not None
    snapshot.slot.flat.fill_(poison)
    results = run_all(engine, [])
    for job in bad:
        error = results[job.request_id]
        assert isinstance(error, UserError)
        assert "logits that are not finite" in str(error)
    for job, pairs in zip(again, wanted, strict=True):
        result = results[job.request_id]
        assert isinstance(result, SampleResponse)
        assert [(s.tokens, s.logprobs) for s in result.sequences] == pairs


def test_heads_of_half_registers_run_torchs_operations(tmp_path: Path) -> None:
    engine = load_engine(make_checkpoint(tmp_path, "qwen3", head_dim=8), dtype="bfloat16")
    assert engine.base.native is None
    assert engine.base.lean is not None
