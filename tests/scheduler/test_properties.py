"""Random programs of several models, arriving in random order, against a plain reading of the rules."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.fakes.fake_engine import BAD_ROW, CRASH_PASS, HUNGRY, FakeClock, FakeEngine, fake_token
from tests.support.operations import Driven, create, forward_backward, load_sampler, operation, optim, sample
from tinsmith.engine.jobs import RowOutput, TrainRow
from tinsmith.types.engine_messages.host_events import Failure, Result
from tinsmith.types.engine_messages.operations import Operation, SaveState, Skip, TakeSnapshot

BUDGET = 12
CODES = {"good": 0, "bad": BAD_ROW, "crash": CRASH_PASS, "hungry": HUNGRY}


@dataclass
class Step:
    """One operation of a program: its kind and, for passes, (fate, length) of each row."""

    kind: str
    rows: list[tuple[str, int]] = field(default_factory=list)


rows = st.lists(st.tuples(st.sampled_from(["good"] * 8 + ["bad", "crash", "hungry"]), st.integers(1, 15)), max_size=5)
steps = st.one_of(
    st.builds(Step, st.just("backward"), rows.filter(bool)),
    st.builds(Step, st.just("forward"), rows.filter(bool)),
    st.builds(Step, st.sampled_from(["optim", "optim", "save", "snapshot", "skip", "skip_failed", "skip_step"])),
)
programs = st.lists(st.lists(steps, max_size=9), min_size=1, max_size=4)


class Expected:
    """What one model's program should do, read one operation after the other."""

    def __init__(self) -> None:
        self.ops: list[tuple[Operation, bool]] = []
        self.diary: list[tuple[Any, ...]] = []
        self.draws: list[tuple[Operation, int]] = []
        self._weights: tuple[Any, ...] = ()
        self._gradients: list[int] = []
        self._poisoned = False

    def add(self, model_id: str, seq_id: int, step: Step, tokens: list[int]) -> None:
        """Read one operation; `tokens` are the first tokens of its rows."""
        if step.kind in ("backward", "forward"):
            self._pass(model_id, seq_id, step, tokens)
        elif step.kind == "optim":
            ok = not self._poisoned
            if ok:
                self._weights = (*self._weights, tuple(self._gradients))
                self.diary.append(("step", self._weights, 1e-4))
            self._end_step(cleared=not ok)
            self.ops.append((optim(model_id, seq_id), ok))
        elif step.kind in ("save", "snapshot"):
            self._save(model_id, seq_id, step.kind)
        else:
            skip = Skip(failed_forward_backward=step.kind == "skip_failed", failed_optim_step=step.kind == "skip_step")
            self._poisoned |= step.kind == "skip_failed"
            if step.kind == "skip_step":
                self._end_step(cleared=True)
            self.ops.append((operation(skip, model_id, seq_id), True))

    def _end_step(self, cleared: bool) -> None:
        if cleared:
            self.diary.append(("clear",))
        self._gradients, self._poisoned = [], False

    def _pass(self, model_id: str, seq_id: int, step: Step, tokens: list[int]) -> None:
        backward = step.kind == "backward"
        ok = all(fate in ("good", "hungry") for fate, _ in step.rows)
        if ok:
            self.diary += [("row", token, backward, len(self._weights)) for token in tokens]
            self._gradients += tokens if backward else []
        self._poisoned |= backward and not ok
        bodies = [[token, *[1] * (length - 1)] for token, (_, length) in zip(tokens, step.rows, strict=True)]
        self.ops.append((forward_backward(model_id, seq_id, bodies, forward_only=not backward), ok))

    def _save(self, model_id: str, seq_id: int, kind: str) -> None:
        name = f"{model_id}-{seq_id}"
        if kind == "save":
            self.diary.append(("save_state", f"/dev/shm/none/{name}", self._weights))
            self.ops.append((operation(SaveState(f"/dev/shm/none/{name}"), model_id, seq_id), True))
            return
        # The folder exists, so that nothing is written: the diary is what counts here.
        self.diary.append(("snapshot", name, self._weights))
        self.ops.append((operation(TakeSnapshot(name, "/"), model_id, seq_id), True))
        self.draws.append((sample(name, seed=seq_id), fake_token(self._weights, seq_id, 0)))


class WatchedEngine(FakeEngine):
    """Checks every pass, saves nothing to disk."""

    def train_rows(self, rows: list[TrainRow]) -> list[RowOutput | Exception]:  # pyright: ignore
        assert len(rows) == 1 or sum(self.row_cost(row.datum) for row in rows) <= self.max_tokens_per_pass
        assert len({row.backward for row in rows}) == 1
        return super().train_rows(rows)

    def save_state(self, model_id: str, folder: str) -> int:
        self.models[model_id].diary.append(("save_state", folder, self.models[model_id].weights))
        return 0


def expectations(program: list[list[Step]]) -> dict[str, Expected]:
    """Read the programs of all models; each row gets a first token of its own, with its fate in it."""
    token = iter(range(10, 9000))
    expected: dict[str, Expected] = {}
    for number, its_steps in enumerate(program):
        model = expected[f"m{number}"] = Expected()
        for seq_id, step in enumerate(its_steps, start=1):
            tokens = [CODES[fate] + next(token) for fate, _ in step.rows]
            model.add(f"m{number}", seq_id, step, tokens)
    return expected


@given(programs, st.integers(0, 2**32))
def test_each_model_runs_in_order_and_every_operation_is_answered_once(program: list[list[Step]], seed: int) -> None:
    rng = random.Random(seed)
    engine = WatchedEngine(max_tokens_per_pass=BUDGET, token_s=1e-6, step_s=1e-6)
    driven = Driven(engine, clock=engine.clock)
    expected = expectations(program)
    births = [create(model_id) for model_id in expected]
    ops = [op for model in expected.values() for op, _ in model.ops]
    draws = [op for model in expected.values() for op, _ in model.draws]
    arrivals = births + ops + draws
    arrivals += rng.sample(arrivals, k=len(arrivals) // 4)  # some are submitted twice
    rng.shuffle(arrivals)
    cancelled = {op.request_id for op in draws if rng.random() < 0.2}
    for op in arrivals:
        driven.submit(op)
        if op.request_id in cancelled:
            driven.host.cancel(op.request_id)
        for _ in range(rng.choice([0, 0, 1, 3])):
            driven.host.poll()
    driven.run()
    driven.host.close()

    for op in births:
        assert driven.result(op)
    for model_id, model in expected.items():
        for op, ok in model.ops:
            assert isinstance(driven.outcome(op), Result if ok else Failure), (op, driven.outcome(op))
        for op, token in model.draws:
            if op.request_id not in cancelled:
                assert driven.response(op).sequences[0].tokens == [token]
            elif isinstance(outcome := driven.outcome(op), Failure):
                assert outcome.message == "the request was cancelled"
        assert _kept(engine.models[model_id].diary, model.diary) == model.diary


def _kept(diary: list[tuple[Any, ...]], expected: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Leave out the rows of operations that failed: how far those came depends on who shared their passes."""
    wanted = {entry[1] for entry in expected if entry[0] == "row"}
    return [entry for entry in diary if entry[0] != "row" or entry[1] in wanted]


@given(
    st.lists(st.lists(st.integers(1, 20), min_size=15, max_size=15), min_size=2, max_size=4),
    st.integers(4, 30),
)
@example([[10] * 40, [10] * 40, [9] * 40], 19)  # the small rows fit into what the others leave of every pass
def test_models_that_all_have_work_get_equal_tokens(lengths: list[list[int]], budget: int) -> None:
    engine = FakeEngine(max_tokens_per_pass=budget)
    driven = Driven(engine, clock=engine.clock)
    ops = [
        forward_backward(f"m{number}", seq_id, [[5] * length])
        for number, own in enumerate(lengths)
        for seq_id, length in enumerate(own, start=1)
    ]
    driven.run(*[create(f"m{n}") for n in range(len(lengths))])
    driven.submit(*ops)
    served = {f"m{n}": 0 for n in range(len(lengths))}
    wanted = {f"m{n}": sum(own) for n, own in enumerate(lengths)}
    while True:
        seen = len(engine.passes)
        driven.host.poll()
        for row in (row for rows in engine.passes[seen:] for row in rows):
            served[row.model_id] += engine.row_cost(row.datum)
        if any(served[m] == wanted[m] for m in wanted):
            return
        # The largest row of each, and what smaller rows may fill at the end of one pass.
        assert max(served.values()) - min(served.values()) <= 2 * max(map(max, lengths)) + budget


@given(st.integers(1, 30), st.integers(1, 8), st.integers(1, 60), st.sampled_from([0.1, 0.5, 2.0]), st.integers(0, 20))
def test_a_flood_of_samples_delays_a_training_step_by_at_most_its_share(
    rows_of_step: int, length: int, flood: int, step_s: float, head_start: int
) -> None:
    alone = _seconds_of_a_step(0, rows_of_step, length, step_s, head_start)
    crowded = _seconds_of_a_step(flood, rows_of_step, length, step_s, head_start)
    # An equal share of the time, and one turn of the sampler that had already begun, before each of two operations.
    assert crowded <= 2 * alone + 2 * step_s + 1e-6


def _seconds_of_a_step(flood: int, rows_of_step: int, length: int, step_s: float, head_start: int) -> float:
    clock = FakeClock()
    driven = Driven(FakeEngine(clock=clock, step_s=step_s, token_s=0.1), clock=clock, max_decode_batch=8)
    driven.run(create("m"), load_sampler("s"))
    driven.submit(*[sample("s", max_tokens=30) for _ in range(flood)])
    for _ in range(head_start):
        driven.host.poll()
    started = clock.now
    step = optim("m", 2)
    driven.submit(forward_backward("m", 1, [5] * rows_of_step, length), step)
    while not driven.outcomes(step):
        driven.host.poll()
    return clock.now - started
