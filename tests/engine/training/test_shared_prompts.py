"""Rows that answer the same prompt: it is computed once, and everything else is as if it were computed for each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.support.checkpoints import SHAPE, checkpoint
from tests.support.engines import load_engine, randomise_adapter
from tests.support.examples import examples
from tests.support.pairs import float64_throughout
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.engine.model.base_model import BaseModel
from tinsmith.engine.model.context import ForwardContext
from tinsmith.engine.threads import THREADS
from tinsmith.engine.training import training_pass
from tinsmith.engine.training.packing import PackedRow, micro_batches, share_prompts, tokens_of
from tinsmith.types.datum import Datum
from tinsmith.types.params import LoraConfig
from tinsmith.types.tensor import TensorData

MODELS = {"a": LoraConfig(rank=8), "b": LoraConfig(rank=3, train_mlp=False)}
LOSSES = ["importance_sampling", "ppo", "cispo", "cross_entropy", "gspo"]
TOLERANCE = 1e-10


def make_engine(family: str, **options: object) -> Engine:
    engine = load_engine(checkpoint(family), **({"dtype": "float64"} | options))  # pyright: ignore[reportArgumentType]
    for seed, (model_id, lora) in enumerate(MODELS.items()):
        engine.create_model(model_id, lora)
        randomise_adapter(engine, model_id, seed)
    return engine


def sample_row(model_id: str, loss: str, prompt: list[int], answer: list[int], rng: np.random.Generator) -> TrainRow:
    """A row as an RL loop makes it: advantages, or weights, are 0 in the prompt."""
    tokens = prompt + answer[:-1]
    before = len(prompt) - 1
    inputs = {"target_tokens": TensorData.from_numpy(np.array([*prompt[1:], *answer]))}
    on_answer = np.r_[np.zeros(before), np.full(len(answer), rng.normal())].astype(np.float32)
    if loss == "cross_entropy":
        inputs["weights"] = TensorData.from_numpy(on_answer)
    else:
        inputs["advantages"] = TensorData.from_numpy(on_answer)
        inputs["logprobs"] = TensorData.from_numpy(rng.normal(-5, 0.3, before + len(answer)).astype(np.float32))
    datum = Datum(Datum(tokens=tokens, targets=None).model_input, inputs)
    return TrainRow(model_id, datum, loss, {}, True)


def ids(rng: np.random.Generator, count: int) -> list[int]:
    return rng.integers(0, SHAPE.vocab_size, count).tolist()


def groups() -> st.SearchStrategy[list[tuple[str, str, int, list[int]]]]:
    group = st.tuples(
        st.sampled_from(sorted(MODELS)),
        st.sampled_from(LOSSES),
        st.integers(1, 60),
        st.lists(st.integers(1, 40), min_size=1, max_size=5),
    )
    return st.lists(group, min_size=1, max_size=4)


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of each pass of the model."""
    seen: list[int] = []
    hidden = BaseModel.hidden

    def counted(self: BaseModel, input_ids: Tensor, context: ForwardContext) -> Tensor:
        seen.append(input_ids.numel())
        return hidden(self, input_ids, context)

    monkeypatch.setattr(BaseModel, "hidden", counted)
    return seen


def run(engine: Engine, rows: list[TrainRow]) -> tuple[list[RowOutput], Tensor]:
    outputs: list[RowOutput] = []
    for output in engine.train_rows(rows):
        assert isinstance(output, RowOutput), output
        outputs.append(output)
    gradient = torch.cat([engine.adapters.get(model_id).grad for model_id in MODELS]).clone()
    for model_id in MODELS:
        engine.clear_gradients(model_id)
    return outputs, gradient


def apart(monkeypatch: pytest.MonkeyPatch, engine: Engine, rows: list[TrainRow]) -> tuple[list[RowOutput], Tensor]:
    with monkeypatch.context() as patch:
        patch.setattr("tinsmith.engine.engine.share_prompts", lambda units, most: units)
        return run(engine, rows)


@pytest.mark.parametrize("rows_per_prompt", [7, 8])
def test_lanes_get_as_many_tokens_each_whatever_prompts_have(rows_per_prompt: int) -> None:
    engine, rng = make_engine("qwen3", dtype="float32"), np.random.default_rng(0)
    slot = engine.adapters.get("a").slot
    rows: list[TrainRow] = []
    while len(rows) < 43:
        prompt = ids(rng, 32)
        rows += [sample_row("a", "ppo", prompt, ids(rng, 64), rng) for _ in range(rows_per_prompt)]
    units = share_prompts([(PackedRow.of(i, row, slot),) for i, row in enumerate(rows[:43])], 1024)
    batches = micro_batches(units, 2048, lanes=2)
    assert [row.index for batch in batches for row in batch] == list(range(43))
    one, other = (tokens_of(tuple(batch)) for batch in batches)
    # A row of 64 tokens, or a prompt that is computed twice.
    assert abs(one - other) <= 64 + 31
    # All but one of a prompt's rows have it from the first one in their batch.
    assert all(sum(not row.head for row in batch) == len({row.tokens[0] for row in batch}) for batch in batches)


@pytest.mark.row(206)
@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_rows_of_one_prompt_give_what_they_give_apart(
    family: str, lanes: int, monkeypatch: pytest.MonkeyPatch, tokens: list[int]
) -> None:
    float64_throughout(monkeypatch)
    engine = make_engine(family)
    monkeypatch.setattr(THREADS, "follow_load", lambda grain: None)
    for name in ("steady", "free"):
        monkeypatch.setattr(THREADS, name, lanes)
    monkeypatch.setattr(training_pass, "_LANE_TOKENS", 64)

    @examples(15)
    @given(groups(), st.integers(0, 99), st.booleans())
    def check(groups: list[tuple[str, str, int, list[int]]], seed: int, shuffled: bool) -> None:
        rng = np.random.default_rng(seed)
        rows: list[TrainRow] = []
        for model_id, loss, length, answers in groups:
            prompt = ids(rng, length)
            rows += [sample_row(model_id, loss, prompt, ids(rng, n), rng) for n in answers]
        if shuffled:
            rows = [rows[i] for i in rng.permutation(len(rows))]
        tokens.clear()
        shared, gradient = run(engine, rows)
        once = sum(tokens)
        again, repeated = run(engine, rows)
        tokens.clear()
        whole, wanted = apart(monkeypatch, engine, rows)
        # All of a prompt but its last token, whose target each row has for itself; `gspo` looks at whole rows.
        saved = sum(
            (len(answers) - 1) * (length - 1)
            for _, loss, length, answers in groups
            if length - 1 >= 16 and loss != "gspo"
        )
        if len({(model_id, loss) for model_id, loss, _, _ in groups}) == len(groups):
            computed = sum(tokens) - once
            # Where a prompt's rows are parted between lanes it is computed once more.
            assert computed == saved if lanes == 1 else saved - 59 * (len(tokens) - 1) <= computed <= saved
        for one, other, same in zip(shared, whole, again, strict=True):
            assert one.loss == pytest.approx(other.loss, rel=TOLERANCE, abs=TOLERANCE)
            np.testing.assert_allclose(one.logprobs, other.logprobs, rtol=TOLERANCE)
            assert np.array_equal(one.logprobs, same.logprobs)
        assert float((gradient - wanted).norm()) <= TOLERANCE * float(wanted.norm())
        assert torch.equal(gradient, repeated)

    check()


def test_what_trains_is_each_rows_own(tokens: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Full conversations that begin alike train on what they share, too: nothing of it may be left out."""
    engine = make_engine("llama")
    rng = np.random.default_rng(0)
    prompt = ids(rng, 40)
    rows: list[TrainRow] = []
    for _ in range(3):
        answer = ids(rng, 9)
        inputs = {"target_tokens": TensorData.from_numpy(np.array([*prompt[1:], *answer]))}
        datum = Datum(Datum(tokens=prompt + answer[:-1], targets=None).model_input, inputs)
        rows.append(TrainRow("a", datum, "cross_entropy", {}, True))
    tokens.clear()
    _, gradient = run(engine, rows)
    assert sum(tokens) == sum(len(row.datum.model_input.to_ints()) for row in rows)
    _, wanted = apart(monkeypatch, engine, rows)
    assert torch.equal(gradient, wanted)


def test_rows_are_put_together_up_to_a_part_of_a_pass(tokens: list[int]) -> None:
    engine = make_engine("llama", max_tokens_per_pass=400)
    rng = np.random.default_rng(0)
    prompt = ids(rng, 51)
    rows = [sample_row("a", "ppo", prompt, ids(rng, 11), rng) for _ in range(12)]
    tokens.clear()
    run(engine, rows)
    # A row has 61 tokens, of which 50 are the prompt's: four in a unit of at most 100, three units.
    assert sum(tokens) == 3 * (61 + 3 * 11)


def test_no_prompt_is_shared_between_adapters_or_in_tiles(tokens: list[int]) -> None:
    rng = np.random.default_rng(0)
    prompt = ids(rng, 30)
    rows = [sample_row(model_id, "ppo", prompt, ids(rng, 5), rng) for model_id in MODELS]
    engine = make_engine("llama")
    tokens.clear()
    run(engine, rows)
    assert sum(tokens) == 2 * 34
    tiled = make_engine("llama", batch_invariant=True, dtype="float32")
    tokens.clear()
    run(tiled, [rows[0], rows[0]])
    assert sum(tokens) == 2 * 34


def test_a_row_that_diverges_takes_none_of_its_prompt_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    float64_throughout(monkeypatch)
    engine = make_engine("llama")
    rng = np.random.default_rng(0)
    prompt = ids(rng, 30)
    rows = [sample_row("a", "importance_sampling", prompt, ids(rng, 5), rng) for _ in range(3)]
    broken = dict(rows[0].datum.loss_fn_inputs)
    broken["logprobs"] = TensorData.from_numpy(np.full(34, -1e30, np.float32))
    bad = TrainRow("a", Datum(rows[0].datum.model_input, broken), "importance_sampling", {}, True)
    # First, so that the others have their prompt from it.
    results = engine.train_rows([bad, *rows])
    assert isinstance(results[0], Exception)
    assert all(isinstance(result, RowOutput) for result in results[1:])
    gradient = engine.adapters.get("a").grad.clone()
    engine.clear_gradients("a")
    _, wanted = apart(monkeypatch, engine, rows)
    found = torch.cat([gradient, torch.zeros_like(engine.adapters.get("b").grad)])
    assert float((found - wanted).norm()) <= TOLERANCE * float(wanted.norm())
