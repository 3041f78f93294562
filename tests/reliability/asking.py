"""What clients ask for. Each request is written down with what must come of it; it is sent later, perhaps twice."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize

from tests.reliability.history import Step, recorded, step
from tests.reliability.lives import TENANTS, Life, Lives
from tests.reliability.reference import Asked, Run, Sampler, Saved
from tests.server.client import ADAM
from tests.support.fakes.fake_engine import BAD_ROW
from tests.support.operations import Datum, encode_forward_backward_request

# Which of several things is meant; drawn without looking at how many there are.
pick = st.integers(0, 999)
tenants = st.integers(0, TENANTS - 1)
lives = st.builds(Life, often=st.booleans(), files=st.booleans())


class Asking(RuleBasedStateMachine):
    """Two clients and their programs."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Step] = []
        self.lives = Lives()
        self.sessions: list[str] = []
        self.numbers = [0] * TENANTS
        self.runs: list[Run] = []
        self.samplers: list[Sampler] = []
        self.saved: list[Saved] = []
        self.asked: list[Asked] = []
        self.tokens = iter(range(10, BAD_ROW))

    @initialize(life=lives)
    @recorded
    def begin(self, life: Life) -> None:
        self.lives.do(self.lives.begin(life))
        self.lives.do(self.lives.settle())
        self.sessions = [self._open(tenant) for tenant in range(TENANTS)]
        for tenant in range(TENANTS):
            self._new_model(tenant)

    def _open(self, tenant: int) -> str:
        body = {"tags": [], "user_metadata": {}, "sdk_version": "0.38.0"}
        return self.lives.do(self.lives.post(tenant, "create_session", body))["session_id"]

    def _number(self, tenant: int) -> int:
        self.numbers[tenant] += 1
        return self.numbers[tenant]

    # -- models -------------------------------------------------------------------------------------------------------

    @step(tenant=tenants)
    def ask_for_a_model(self, tenant: int) -> None:
        self._new_model(tenant)

    def _new_model(self, tenant: int) -> None:
        self._new_run(tenant, "create_model", {"base_model": "base", "lora_config": {"rank": 4, "seed": 3}}).seen()

    @step(tenant=tenants, which=pick)
    def ask_for_a_model_of_a_state(self, tenant: int, which: int) -> None:
        if (saved := self._saved(tenant, which, "weights")) is None:
            return
        run = self._new_run(tenant, "load_weights", {"path": saved.path, "optimizer": True})
        run.creation.answered_first.append(saved.asked)
        run.reference.load(saved.weights)
        run.seen()

    def _new_run(self, tenant: int, door: str, fields: dict[str, Any]) -> Run:
        number = self._number(tenant)
        model_id = f"{self.sessions[tenant]}:train:{number}"
        body = {"session_id": self.sessions[tenant], "model_seq_id": number} | fields
        creation = Asked(tenant, "birth", door, body, {"model_id": model_id})
        self.asked.append(creation)
        self.runs.append(Run(tenant, model_id, creation))
        return self.runs[-1]

    def _run(self, which: int) -> Run | None:
        alive = [run for run in self.runs if not run.over]
        return alive[which % len(alive)] if alive else None

    # -- training -----------------------------------------------------------------------------------------------------

    @step(which=pick, rows=st.integers(1, 3), length=st.integers(1, 3))
    def ask_for_gradients(self, which: int, rows: int, length: int) -> None:
        if (run := self._run(which)) is None:
            return
        tokens = tuple(next(self.tokens) for _ in range(rows))
        before = run.reference.gradients
        loss = run.reference.backward(tokens)
        for row in range(1, rows + 1):
            run.states.add((run.reference.weights, before + tokens[:row]))
        self._pass(run, tokens, {"loss": loss}, length)

    @step(which=pick)
    def ask_for_losses(self, which: int) -> None:
        if (run := self._run(which)) is not None:
            tokens = (next(self.tokens),)
            self._pass(run, tokens, {"loss": run.reference.forward(tokens)}, 2, forward_only=True)

    @step(which=pick)
    def ask_for_gradients_in_vain(self, which: int) -> None:
        if (run := self._run(which)) is not None:
            self._pass(run, (BAD_ROW + next(self.tokens),), None, 2)
            run.reference.broken = True

    def _pass(self, run: Run, tokens: tuple[int, ...], expected: Any, length: int, forward_only: bool = False) -> None:
        run.seq += 1
        data = [Datum(tokens=[t] * length, targets=[t] * length, weights=[1.0] * length) for t in tokens]
        body = encode_forward_backward_request(run.model_id, run.seq, data, "cross_entropy", None, forward_only)
        self.asked.append(Asked(run.tenant, "pass", "forward_backward", body, expected, [run.creation]))

    @step(which=pick)
    def ask_for_a_step(self, which: int) -> None:
        if (run := self._run(which)) is None:
            return
        mark = run.reference.step()
        run.seen()
        expected = None if mark is None else {"metrics": {"mark": mark}}
        self._of_run(run, "step", "optim_step", {"adam_params": ADAM}, expected)

    @step(which=pick)
    def ask_for_a_step_in_vain(self, which: int) -> None:
        if (run := self._run(which)) is not None:
            self._of_run(run, "step", "optim_step", {"adam_params": ADAM | {"learning_rate": -1.0}}, None)

    def _of_run(self, run: Run, kind: str, door: str, fields: dict[str, Any], expected: dict[str, Any] | None) -> Asked:
        run.seq += 1
        body = {"model_id": run.model_id, "seq_id": run.seq} | fields
        self.asked.append(Asked(run.tenant, kind, door, body, expected, [run.creation]))
        return self.asked[-1]

    # -- checkpoints --------------------------------------------------------------------------------------------------

    @step(which=pick, kind=st.sampled_from(["weights", "weights", "sampler_weights"]))
    def ask_for_a_save(self, which: int, kind: str) -> None:
        if (run := self._run(which)) is None:
            return
        name = f"n{run.seq}"
        path = f"tinker://{run.model_id}/{kind}/{name}"
        door = "save_weights" if kind == "weights" else "save_weights_for_sampler"
        asked = self._of_run(run, "save", door, {"path": name}, {"path": path})
        self.saved.append(Saved(path, kind, asked, run.reference.weights, run))

    def _saved(self, tenant: int, which: int, kind: str) -> Saved | None:
        # By the same tenant: no other may read it.
        found = [saved for saved in self.saved if saved.run.tenant == tenant and saved.kind == kind]
        return found[which % len(found)] if found else None

    @step(which=pick, state=pick)
    def ask_for_a_load(self, which: int, state: int) -> None:
        if (run := self._run(which)) is None or (saved := self._saved(run.tenant, state, "weights")) is None:
            return
        run.reference.load(saved.weights)
        run.seen()
        asked = self._of_run(run, "load", "load_weights", {"path": saved.path, "optimizer": True}, {"path": saved.path})
        asked.answered_first.append(saved.asked)

    # -- samples ------------------------------------------------------------------------------------------------------

    @step(which=pick)
    def ask_for_a_snapshot(self, which: int) -> None:
        if (run := self._run(which)) is None:
            return
        number = self._number(run.tenant)
        sampler_id = f"{self.sessions[run.tenant]}:sample:{number}"
        fields = {"sampling_session_seq_id": number}
        asked = self._of_run(run, "snapshot", "save_weights_for_sampler", fields, {"sampling_session_id": sampler_id})
        self.samplers.append(Sampler(run.tenant, sampler_id, run.reference.weights, asked))

    @step(tenant=tenants, which=pick)
    def a_sampler_of_saved_weights(self, tenant: int, which: int) -> None:
        saved = self._saved(tenant, which, "sampler_weights")
        if self.lives.disk.full or (saved is not None and saved.asked.outcome is None):
            return
        source = {"base_model": "base"} if saved is None else {"model_path": saved.path}
        body = {"session_id": self.sessions[tenant], "sampling_session_seq_id": self._number(tenant)} | source
        answers = [self.lives.do(self.lives.post(tenant, "create_sampling_session", body)) for _ in range(2)]
        assert answers[0] == answers[1], "a repeated request made another sampler"
        weights = None if saved is None else saved.weights
        self.samplers.append(Sampler(tenant, answers[0]["sampling_session_id"], weights, None))

    @step(which=pick, seed=st.one_of(st.none(), st.integers(0, 5)), length=st.integers(1, 3))
    def ask_for_a_sample(self, which: int, seed: int | None, length: int) -> None:
        alive = [sampler for sampler in self.samplers if not sampler.over]
        if not alive:
            return
        sampler = alive[which % len(alive)]
        sampler.seq += 1
        body = {
            "sampling_session_id": sampler.sampler_id,
            "seq_id": sampler.seq,
            "num_samples": 1,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": [1]}]},
            "sampling_params": {"max_tokens": length} | ({} if seed is None else {"seed": seed}),
        }
        expected = {"weights": sampler.weights, "seed": seed, "length": length}
        first = [] if sampler.origin is None else [sampler.origin]
        self.asked.append(Asked(sampler.tenant, "sample", "asample", body, expected, first))
