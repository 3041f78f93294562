"""The sampler's written-out decoder and its adapters side by side against the modules that training uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from tests.support.checkpoints import FAMILIES, checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.sampling import learner_logprobs, make_job, sample
from tinsmith.engine.engine import Engine
from tinsmith.engine.model.attention import packed_attention
from tinsmith.engine.model.context import ForwardContext, Mode, adapter_spans
from tinsmith.engine.model.lean import lean_decoder, pass_adapters
from tinsmith.engine.model.lean.pass_adapters import PassAdapters
from tinsmith.engine.model.workspace import Workspace
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
    # The modules without what runs in C: of bfloat16 that rounds a number now and then the other way.
    engine = load_engine(checkpoint(family), dtype=dtype, native_kernels=dtype != "bfloat16")
    ranks = [LoraConfig(rank=rank) for rank in (8, 3, 16)]
    # The factor on B·A·x is 4, 10.7 and 2.
    adapters = [*ranks[:2], LoraConfig(rank=8, train_mlp=False), ranks[2], ranks[0]]
    for seed, lora in enumerate(adapters):
        engine.create_model(f"m{seed}", lora)
        randomise_adapter(engine, f"m{seed}", seed)
    return engine


@pytest.mark.row(204, 207)
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-12), ("float32", 1e-5), ("bfloat16", 0.0)])
@pytest.mark.parametrize("family", FAMILIES)
# One adapter, several side by side of one scale and of several, and tokens of the base alone between them.
@pytest.mark.parametrize("owners", ["0", "1", "01", "0011", "04", "01-23", "3-0-1", "--"])
# Lengths are equal or not: then side by side means padded.
@pytest.mark.parametrize("longer", [0, 2])
@torch.no_grad()
def test_the_written_out_decoder_equals_the_modules(
    family: str, dtype: str, bound: float, owners: str, longer: int
) -> None:
    engine = make_engine(family, dtype)
    base = engine.base
    assert base.lean is not None
    slots = [None if o == "-" else engine.adapters.get(f"m{o}").slot for o in owners]
    lengths = tuple(3 + longer * i for i in range(len(slots)))
    ids = torch.randint(base.info.vocab_size, (sum(lengths),), generator=torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(n) for n in lengths])
    context = ForwardContext(Mode.PACKED, positions, lengths, adapter_spans(slots, lengths), paged=Whole())
    with base.cell.use(context):
        wanted, found = base.hidden(ids, context), base.lean.hidden(ids, context)
    assert (found - wanted).abs().max() <= bound * wanted.abs().max()


@pytest.mark.parametrize("few", [0, 128])
@torch.no_grad()
def test_many_and_few_tokens_round_alike(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Few have the products of an MLP by columns.
    monkeypatch.setattr(lean_decoder, "_FEW_TOKENS", few)
    engine = make_engine("qwen3", "bfloat16")
    base = engine.base
    assert base.lean is not None
    slots = [engine.adapters.get(f"m{o}").slot for o in (0, 1, 3)]
    lengths = (30, 34, 40)
    ids = torch.arange(sum(lengths)) % base.info.vocab_size
    positions = torch.cat([torch.arange(n) for n in lengths])
    context = ForwardContext(Mode.PACKED, positions, lengths, adapter_spans(slots, lengths), paged=Whole())
    with base.cell.use(context):
        assert torch.equal(base.lean.hidden(ids, context), base.hidden(ids, context))
    layers = base.lean._bind(sum(lengths), context, Workspace())
    assert {layer._gate_up.by_columns for layer in layers if layer._gate_up} == {few > 0}


# Slots that follow each other, and slots that do not: their matrices are copied to lie side by side.
@pytest.mark.parametrize("owners", ["01", "1011"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("most_kept", [0, 1 << 30])
@torch.no_grad()
def test_steps_see_what_was_written_to_an_adapter(
    owners: str, dtype: str, most_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pass_adapters, "_MOST_KEPT", most_kept)
    engine = make_engine("qwen3", dtype)
    base, workspace = engine.base, Workspace()
    assert base.lean is not None
    slots = [engine.adapters.get(f"m{o}").slot for o in owners]
    lengths = (4,) * len(slots)
    ids = torch.arange(sum(lengths)) % base.info.vocab_size
    positions = torch.arange(4).repeat(len(slots))
    context = ForwardContext(
        Mode.PACKED, positions, lengths, adapter_spans(slots, lengths), paged=Whole(), workspace=workspace
    )
    with base.cell.use(context):
        for _ in range(2):
            slots[1].flat.mul_(2)
            wanted, found = base.hidden(ids, context), base.lean.hidden(ids, context)
            assert (found - wanted).abs().max() <= (1e-5 if dtype == "float32" else 0) * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("lengths", "parts"),
    # Padded to the longest the last ones would be more than twice as many rows.
    [((4, 4), 1), ((4, 3), 1), ((9, 9, 1), 1), ((90, 1, 1), 3)],
)
def test_adapters_of_one_shape_are_one_product(lengths: tuple[int, ...], parts: int, dtype: torch.dtype) -> None:
    engine = make_engine("llama", "float32")
    slots = [engine.adapters.get(f"m{i % 2}").slot for i in range(len(lengths))]
    spans = adapter_spans(slots, lengths)
    assert len(PassAdapters(spans, dtype, torch.device("cpu"))._parts) == parts


def test_fused_weights_are_held_once() -> None:
    engine = load_engine(checkpoint("qwen2"))
    assert engine.base.lean is not None
    attention = engine.base.decoder.layers[0].self_attn  # pyright: ignore
    fused = engine.base.lean.layers[0].qkv
    weights = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    assert torch.equal(torch.cat(weights), fused.weight)
    assert {w.untyped_storage().data_ptr() for w in weights} == {fused.weight.untyped_storage().data_ptr()}


def test_tiles_go_through_the_modules() -> None:
    assert load_engine(checkpoint("llama"), batch_invariant=True).base.lean is None


class Doubled(LlamaMLP):
    """Computes something else than its family's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def doubled(layer: Any) -> None:
    layer.mlp.__class__ = Doubled


def without_a_scaling(layer: Any) -> None:
    layer.self_attn.forward = type(layer.self_attn).forward.__get__(_Unscaled(layer.self_attn))
    del layer.self_attn.scaling


class _Unscaled:
    """Hands out what attention asks for although its layer lacks it."""

    def __init__(self, of: nn.Module) -> None:
        self._of = of
        self.scaling = 0.25

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)


def keys_without_a_bias(layer: Any) -> None:
    for linear in (layer.self_attn.q_proj, layer.self_attn.v_proj):
        linear.bias = nn.Parameter(torch.linspace(-1, 1, linear.out_features, dtype=linear.weight.dtype))


def values_with_a_bias(layer: Any) -> None:
    linear = layer.self_attn.v_proj
    linear.bias = nn.Parameter(torch.linspace(-1, 1, linear.out_features, dtype=linear.weight.dtype))


def keys_before_queries(layer: Any) -> None:
    modules = layer.self_attn._modules
    query = modules.pop("q_proj")
    modules["q_proj"] = query


@pytest.mark.row(12, 208)
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (doubled, "compute something else"),
        (without_a_scaling, "has no attribute 'scaling'"),
        (keys_without_a_bias, "NoneType"),
        (values_with_a_bias, "NoneType"),
        (keys_before_queries, "no neighbours"),
    ],
)
def test_modules_that_differ_from_their_family_are_run_as_they_are(
    change: Callable[[Any], None], why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load: Any = AutoModelForCausalLM.from_pretrained

    def load_changed(*args: Any, **options: Any) -> Any:
        model, report = load(*args, **options)
        for layer in model.model.layers:
            change(layer)
        return model, report

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load_changed)
    engine = load_engine(checkpoint("llama"), dtype="float64")
    assert engine.base.lean is None
    (said,) = [record.getMessage() for record in caplog.records if "written-out" in record.getMessage()]
    assert said.startswith("LlamaForCausalLM: the sampler runs its modules")
    assert why in said
    engine.create_model("a", LoraConfig(rank=8))
    randomise_adapter(engine, "a", 0)
    engine.snapshot("a", "a")
    prompt = [1, 2, 3]
    (sequence,) = sample(engine, make_job("a", prompt, max_tokens=8)).sequences
    wanted = learner_logprobs(engine, "a", prompt + sequence.tokens)[len(prompt) - 1 :]
    np.testing.assert_allclose(sequence.logprobs or [], wanted, atol=1e-9)
