"""The sampler's written-out decoder and its adapters side by side against the modules that training uses."""

from __future__ import annotations

import pytest
import torch

from tests.support.checkpoints import FAMILIES, checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tinsmith.engine.engine import Engine
from tinsmith.engine.model.attention import packed_attention
from tinsmith.engine.model.context import ForwardContext, Mode, adapter_spans
from tinsmith.engine.model.lean.pass_adapters import PassAdapters
from tinsmith.types.params import LoraConfig


class Whole:
    """Attention of whole sequences, without a cache."""

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float,
        context: ForwardContext,
    ) -> torch.Tensor:
        return packed_attention(query, key, value, context.layout, scaling)


def make_engine(family: str, dtype: str) -> Engine:
    engine = load_engine(checkpoint(family), dtype=dtype)
    adapters = [LoraConfig(rank=8), LoraConfig(rank=3), LoraConfig(rank=8, train_mlp=False), LoraConfig(rank=16)]
    for seed, lora in enumerate(adapters):
        engine.create_model(f"m{seed}", lora)
        randomise_adapter(engine, f"m{seed}", seed)
    return engine


@pytest.mark.row(204, 207)
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-12), ("float32", 1e-5), ("bfloat16", 0.0)])
@pytest.mark.parametrize("family", FAMILIES)
# One adapter, several side by side with and without padding, and tokens of the base alone between them.
@pytest.mark.parametrize("owners", ["0", "01", "0011", "01-23", "3-0-1", "--"])
@torch.no_grad()
def test_the_written_out_decoder_equals_the_modules(family: str, dtype: str, bound: float, owners: str) -> None:
    engine = make_engine(family, dtype)
    base = engine.base
    assert base.lean is not None
    slots = [None if o == "-" else engine.adapters.get(f"m{o}").slot for o in owners]
    lengths = tuple(3 + 2 * i for i in range(len(slots)))
    ids = torch.randint(base.info.vocab_size, (sum(lengths),), generator=torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(n) for n in lengths])
    context = ForwardContext(Mode.PACKED, positions, lengths, adapter_spans(slots, lengths), paged=Whole())
    with base.cell.use(context):
        wanted, found = base.hidden(ids, context), base.lean.hidden(ids, context)
    assert (found - wanted).abs().max() <= bound * wanted.abs().max()


@pytest.mark.parametrize(
    ("lengths", "parts"),
    # Padded to the longest the last ones would be more than twice as many rows.
    [((4, 4), 1), ((4, 3), 1), ((9, 9, 1), 1), ((90, 1, 1), 3)],
)
def test_adapters_of_one_shape_are_one_product(lengths: tuple[int, ...], parts: int) -> None:
    engine = make_engine("llama", "float32")
    slots = [engine.adapters.get(f"m{i % 2}").slot for i in range(len(lengths))]
    spans = adapter_spans(slots, lengths)
    assert len(PassAdapters(spans, torch.float32, torch.device("cpu"))._parts) == parts


def test_fused_weights_are_held_once() -> None:
    engine = load_engine(checkpoint("qwen2"))
    assert engine.base.lean is not None
    attention = engine.base.decoder.layers[0].self_attn  # pyright: ignore
    fused = engine.base.lean._layers[0].qkv
    weights = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    assert torch.equal(torch.cat(weights), fused.weight)
    assert {w.untyped_storage().data_ptr() for w in weights} == {fused.weight.untyped_storage().data_ptr()}


def test_tiles_go_through_the_modules() -> None:
    assert load_engine(checkpoint("llama"), batch_invariant=True).base.lean is None
