"""Training through the layers in C and the split products against training through the modules and torch's products."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.checkpoints import checkpoint, make_checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.rows import make_row
from tinsmith.engine import engine as engine_module
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.engine.model.loading import base_loading
from tinsmith.engine.model.native.compiler import library
from tinsmith.engine.model.native.training.fused_layer import FusedLayer
from tinsmith.engine.model.native.training.layer_functions import run_here
from tinsmith.engine.model.tiles.products import WHOLE
from tinsmith.types.datum import Datum
from tinsmith.types.params import LoraConfig

pytestmark = pytest.mark.skipif(library() is None, reason="no compiler")
# Wide enough for the tiles, in numbers that are no multiples of theirs.
SHAPE = {"hidden_size": 72, "head_dim": 20, "num_attention_heads": 4, "num_key_value_heads": 2}
WIDTHS = {"intermediate_size": 100, "moe_intermediate_size": 68}


def _is_fused(engine: Engine) -> bool:
    return all(isinstance(layer, FusedLayer) for layer in engine.base.decoder.layers)  # pyright: ignore


def _train(engine: Engine) -> tuple[np.ndarray, torch.Tensor]:
    """Logprobs of rows of two adapters and the adapters' gradients."""
    for i, name in enumerate(("a", "b")):
        engine.create_model(name, LoraConfig(rank=8))
        randomise_adapter(engine, name, seed=i)
    rng = np.random.default_rng(0)
    rows = [make_row(name, "cross_entropy", n, rng) for name, n in (("a", 70), ("b", 33), ("a", 5))]
    # Answers to one prompt, which is computed once.
    prompt = rng.integers(1, 60, 21).tolist()
    for n in (1, 30, 9):
        answer = rng.integers(1, 60, n).tolist()
        tokens, weights = prompt + answer, [0.0] * 20 + [1.0] * n
        rows.append(
            TrainRow("b", Datum(tokens=tokens[:-1], targets=tokens[1:], weights=weights), "cross_entropy", {}, True)
        )
    outputs = engine.train_rows(rows)
    assert all(isinstance(output, RowOutput) for output in outputs)
    logprobs = np.concatenate([output.logprobs.ravel() for output in outputs if isinstance(output, RowOutput)])
    gradients = [engine.adapters.get(name).grad for name in ("a", "b")]
    assert all(grad is not None for grad in gradients)
    return logprobs, torch.cat([grad for grad in gradients if grad is not None])


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "mixtral"])
def test_training_gives_what_the_modules_give(
    family: str, recompute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    window: dict[str, object] = {"sliding_window": None} if family in ("mistral", "mixtral") else {}
    folder = make_checkpoint(tmp_path, family, dtype=torch.bfloat16, **SHAPE, **WIDTHS, **window)
    fused = load_engine(folder, activation_checkpointing=recompute)
    assert _is_fused(fused)
    monkeypatch.setattr(base_loading, "fuse_layers", lambda *_: None)
    monkeypatch.setattr(engine_module, "fast_products", lambda *_: WHOLE)
    plain = load_engine(folder)
    assert not _is_fused(plain)
    (logprobs, gradients), (wanted, wanted_gradients) = _train(fused), _train(plain)
    np.testing.assert_allclose(logprobs, wanted, rtol=1e-5, atol=1e-5)
    assert (gradients - wanted_gradients).norm() <= 1e-5 * wanted_gradients.norm()


@pytest.mark.skipif(not run_here(torch.empty(0, dtype=torch.bfloat16)), reason="this processor has no bfloat16")
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "mixtral"])
def test_bfloat16_is_as_near_to_float32_as_the_modules_are(family: str, recompute: bool, tmp_path: Path) -> None:
    window: dict[str, object] = {"sliding_window": None} if family in ("mistral", "mixtral") else {}
    folder = make_checkpoint(tmp_path, family, dtype=torch.bfloat16, **SHAPE, **WIDTHS, **window)
    fused = load_engine(folder, dtype="bfloat16", activation_checkpointing=recompute)
    assert _is_fused(fused)
    plain = load_engine(folder, dtype="bfloat16", native_kernels=False)
    assert not _is_fused(plain)
    exact = load_engine(folder, dtype="float32")
    found, torchs, wanted = (_train(engine) for engine in (fused, plain, exact))
    for ours, theirs, right in zip(found, torchs, wanted, strict=True):
        ours, theirs, right = (torch.as_tensor(x).double() for x in (ours, theirs, right))
        assert (ours - right).norm() <= 1.25 * (theirs - right).norm()


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("qwen3", {"dtype": "float64"}),
        ("qwen3", {"batch_invariant": True}),
    ],
)
def test_all_else_trains_through_the_modules(family: str, options: dict[str, object]) -> None:
    assert not _is_fused(load_engine(checkpoint(family), **options))  # pyright: ignore[reportArgumentType]


def test_layers_that_compute_something_else_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def spoilt(decoder: Any, lean: Any, fuse: Any = base_loading.fuse_layers) -> None:
        fuse(decoder, lean)
        decoder.layers[0]._scaling *= 1.5

    monkeypatch.setattr(base_loading, "fuse_layers", spoilt)
    base = load_engine(checkpoint("llama")).base
    assert not any(isinstance(module, FusedLayer) for module in base.decoder.modules())
    assert "layers in C compute something else" in caplog.text


def test_the_setting_leaves_all_to_torch() -> None:
    base = load_engine(checkpoint("llama"), native_kernels=False).base
    assert not any(isinstance(module, FusedLayer) for module in base.decoder.modules())
    assert base.products is WHOLE
    assert not base.head.native
