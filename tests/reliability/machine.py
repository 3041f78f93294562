"""Clients that do anything, a service that dies at any moment, and what must hold all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.reliability.lives import TENANTS, Lives, Refused
from tests.reliability.reference import Asked, Run, Sampler
from tests.server.client import ADAM
from tests.support.fake_engine import BAD_ROW, Weights, fake_token
from tests.support.operations import Datum, encode_forward_backward_request
from tinsmith.scheduler.sample_queue import sample_seed

# Which of several things is meant; drawn without looking at how many there are.
pick = st.integers(0, 999)


class Histories(RuleBasedStateMachine):
    """See the module. Rules that begin with `ask_` write a request down; it is sent later, perhaps more than once."""

    def __init__(self) -> None:
        super().__init__()
        self.lives = Lives()
        self.sessions: list[str] = []
        self.numbers = [0] * TENANTS
        self.runs: list[Run] = []
        self.samplers: list[Sampler] = []
        self.saved: list[tuple[str, Asked, Weights, Run, str]] = []
        self.asked: list[Asked] = []
        self.tokens = iter(range(10, BAD_ROW))

    def teardown(self) -> None:
        try:
            if self.sessions:
                self.everything_comes_to_its_end()
        finally:
            self.lives.close()

    @initialize(often=st.booleans(), files=st.booleans())
    def begin(self, often: bool, files: bool) -> None:
        self.lives.do(self.lives.begin(often, files))
        self.lives.do(self.lives.settle())
        self.sessions = [self._open(tenant) for tenant in range(TENANTS)]

    def _open(self, tenant: int) -> str:
        body = {"tags": [], "user_metadata": {}, "sdk_version": "0.38.0"}
        return self.lives.do(self.lives.post(tenant, "create_session", body))["session_id"]

    # -- requests are written down ------------------------------------------------------------------------------------

    def _ask(self, asked: Asked) -> Asked:
        self.asked.append(asked)
        return asked

    def _of_run(self, run: Run, kind: str, path: str, expected: dict[str, Any] | None, **fields: Any) -> Asked:
        run.seq += 1
        body = {"model_id": run.model_id, "seq_id": run.seq} | fields
        return self._ask(Asked(run.tenant, kind, path, body, expected, run.creation))

    def _run(self, which: int) -> Run | None:
        alive = [run for run in self.runs if not run.over]
        return alive[which % len(alive)] if alive else None

    @rule(tenant=st.integers(0, TENANTS - 1))
    def ask_for_a_model(self, tenant: int) -> None:
        self._new_run(tenant, "create_model", {"base_model": "base", "lora_config": {"rank": 4, "seed": 3}})

    def _new_run(self, tenant: int, path: str, fields: dict[str, Any], ready: Asked | None = None) -> Run:
        number = self.numbers[tenant] = self.numbers[tenant] + 1
        model_id = f"{self.sessions[tenant]}:train:{number}"
        body = {"session_id": self.sessions[tenant], "model_seq_id": number} | fields
        creation = Asked(tenant, "birth", path, body, {"model_id": model_id}, ready, "answered")
        self._ask(creation)
        run = Run(tenant, model_id, creation)
        run.seen()
        self.runs.append(run)
        return run

    @rule(which=pick, rows=st.integers(1, 3), length=st.integers(1, 3))
    def ask_for_gradients(self, which: int, rows: int, length: int) -> None:
        if (run := self._run(which)) is None:
            return
        tokens = tuple(next(self.tokens) for _ in range(rows))
        before = run.reference.gradients
        loss = run.reference.backward(tokens)
        for row in range(1, rows + 1):
            run.states.add((run.reference.weights, before + tokens[:row]))
        self._pass(run, tokens, {"loss": loss}, length)

    @rule(which=pick)
    def ask_for_losses(self, which: int) -> None:
        if (run := self._run(which)) is not None:
            tokens = (next(self.tokens),)
            self._pass(run, tokens, {"loss": run.reference.forward(tokens)}, 2, forward_only=True)

    @rule(which=pick)
    def ask_for_gradients_in_vain(self, which: int) -> None:
        if (run := self._run(which)) is not None:
            self._pass(run, (BAD_ROW + next(self.tokens),), None, 2)
            run.reference.broken = True

    def _pass(self, run: Run, tokens: tuple[int, ...], expected: Any, length: int, forward_only: bool = False) -> None:
        run.seq += 1
        data = [Datum(tokens=[t] * length, targets=[t] * length, weights=[1.0] * length) for t in tokens]
        body = encode_forward_backward_request(run.model_id, run.seq, data, "cross_entropy", None, forward_only)
        self._ask(Asked(run.tenant, "pass", "forward_backward", body, expected, run.creation))

    @rule(which=pick)
    def ask_for_a_step(self, which: int) -> None:
        if (run := self._run(which)) is None:
            return
        mark = run.reference.step()
        run.seen()
        expected = None if mark is None else {"metrics": {"mark": mark}}
        self._of_run(run, "step", "optim_step", expected, adam_params=ADAM)

    @rule(which=pick)
    def ask_for_a_step_in_vain(self, which: int) -> None:
        if (run := self._run(which)) is not None:
            self._of_run(run, "step", "optim_step", None, adam_params=ADAM | {"learning_rate": -1.0})

    @rule(which=pick, kind=st.sampled_from(["weights", "weights", "sampler_weights"]))
    def ask_for_a_save(self, which: int, kind: str) -> None:
        if (run := self._run(which)) is None:
            return
        name = f"n{run.seq}"
        path = f"tinker://{run.model_id}/{kind}/{name}"
        door = "save_weights" if kind == "weights" else "save_weights_for_sampler"
        asked = self._of_run(run, "save", door, {"path": path}, path=name)
        self.saved.append((path, asked, run.reference.weights, run, kind))

    @rule(which=pick)
    def ask_for_a_snapshot(self, which: int) -> None:
        if (run := self._run(which)) is None:
            return
        number = self.numbers[run.tenant] = self.numbers[run.tenant] + 1
        sampler_id = f"{self.sessions[run.tenant]}:sample:{number}"
        expected = {"sampling_session_id": sampler_id}
        asked = self._of_run(run, "snapshot", "save_weights_for_sampler", expected, sampling_session_seq_id=number)
        self.samplers.append(Sampler(run.tenant, sampler_id, run.reference.weights, asked))

    def _state(self, tenant: int, which: int, kind: str) -> tuple[str, Asked, Weights] | None:
        # By the same tenant, and whole: no other may read it.
        found = [
            (path, asked, weights) for path, asked, weights, run, k in self.saved if run.tenant == tenant and k == kind
        ]
        return found[which % len(found)] if found else None

    @rule(which=pick, state=pick)
    def ask_for_a_load(self, which: int, state: int) -> None:
        if (run := self._run(which)) is None or (found := self._state(run.tenant, state, "weights")) is None:
            return
        path, saved, weights = found
        run.reference.load(weights)
        run.seen()
        asked = self._of_run(run, "load", "load_weights", {"path": path}, path=path, optimizer=True)
        asked.ready, asked.ready_when = saved, "answered"

    @rule(tenant=st.integers(0, TENANTS - 1), state=pick)
    def ask_for_a_model_of_a_state(self, tenant: int, state: int) -> None:
        if (found := self._state(tenant, state, "weights")) is None:
            return
        path, saved, weights = found
        run = self._new_run(tenant, "load_weights", {"path": path, "optimizer": True}, saved)
        run.reference.load(weights)
        run.states.clear()
        run.seen()

    @rule(tenant=st.integers(0, TENANTS - 1), state=pick)
    def a_sampler_of_saved_weights(self, tenant: int, state: int) -> None:
        found = self._state(tenant, state, "sampler_weights")
        if self.lives.disk_full or (found is not None and found[1].outcome is None):
            return
        source = {"base_model": "base"} if found is None else {"model_path": found[0]}
        number = self.numbers[tenant] = self.numbers[tenant] + 1
        body = {"session_id": self.sessions[tenant], "sampling_session_seq_id": number} | source
        answers = [self.lives.do(self.lives.post(tenant, "create_sampling_session", body)) for _ in range(2)]
        assert answers[0] == answers[1]
        weights = None if found is None else found[2]
        self.samplers.append(Sampler(tenant, answers[0]["sampling_session_id"], weights, None))

    @rule(which=pick, seed=st.one_of(st.none(), st.integers(0, 5)), length=st.integers(1, 3))
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
        self._ask(Asked(sampler.tenant, "sample", "asample", body, expected, sampler.origin))

    # -- requests are sent, again and in any order --------------------------------------------------------------------

    def _outbox(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.request_id is None and asked.may_be_sent and not asked.dropped]

    @rule(which=pick, count=st.integers(1, 8))
    def send(self, which: int, count: int) -> None:
        for _ in range(count):
            if outbox := self._outbox():
                self._accept(outbox[which % len(outbox)])

    def _accept(self, asked: Asked) -> None:
        try:
            self._note(asked, self.lives.do(self.lives.post(asked.tenant, asked.path, asked.body)))
        except Refused:
            return

    def _note(self, asked: Asked, promise: dict[str, Any]) -> None:
        assert asked.request_id in (None, promise["request_id"]), "a repeated request got another future"
        asked.request_id = promise["request_id"]

    @rule(which=pick)
    def send_twice_at_once(self, which: int) -> None:
        if not (outbox := self._outbox()):
            return
        asked = outbox[which % len(outbox)]

        async def both() -> list[Any]:
            posts = [self.lives.post(asked.tenant, asked.path, asked.body) for _ in range(2)]
            return await asyncio.gather(*posts, return_exceptions=True)

        for answer in self.lives.do(both()):
            if isinstance(answer, dict):
                self._note(asked, answer)
            else:
                assert isinstance(answer, Refused), answer

    @rule(which=pick)
    def send_and_lose_the_answer(self, which: int) -> None:
        if not (outbox := self._outbox()):
            return
        asked = outbox[which % len(outbox)]
        try:
            self.lives.do(self.lives.post(asked.tenant, asked.path, asked.body))
        except Refused:
            return

    @rule(which=pick, steps=st.integers(0, 12))
    def hang_up_while_sending(self, which: int, steps: int) -> None:
        if not (outbox := self._outbox()):
            return
        asked = outbox[which % len(outbox)]

        async def begin() -> None:
            post = asyncio.ensure_future(self.lives.post(asked.tenant, asked.path, asked.body))
            for _ in range(steps):
                await asyncio.sleep(0)
            post.cancel()
            await asyncio.gather(post, return_exceptions=True)

        self.lives.do(begin())

    @rule(which=pick)
    def send_again_what_was_accepted(self, which: int) -> None:
        accepted = [asked for asked in self.asked if asked.request_id is not None and not asked.may_fail]
        if accepted:
            self._accept(accepted[which % len(accepted)])

    @rule(which=pick)
    def read(self, which: int) -> None:
        accepted = [asked for asked in self.asked if asked.request_id is not None]
        if accepted:
            self._read(accepted[which % len(accepted)])

    def _read(self, asked: Asked) -> None:
        found = self.lives.do(self.lives.read(asked))
        if found is None:
            assert asked.outcome is None, "a future that had settled is open again"
            return
        if asked.outcome is None:
            asked.outcome = found
            self._check(asked, found)
        assert found == asked.outcome, "a future says something else than before"

    def _check(self, asked: Asked, found: dict[str, Any]) -> None:
        if "error" in found and asked.may_fail:
            return
        if asked.expected is None:
            assert found.get("category") == "user", f"{asked}: {found}"
        elif asked.kind == "sample":
            wanted = asked.expected
            seed = sample_seed(wanted["seed"], asked.request_id or "")
            tokens = [fake_token(wanted["weights"], seed, i) for i in range(wanted["length"])]
            assert found == {"tokens": [tokens]}, f"{asked}: {found}"
        else:
            assert asked.expected.items() <= found.items(), f"{asked}: {found}"

    # -- the service works, and dies ----------------------------------------------------------------------------------

    @rule(beats=st.integers(1, 6))
    def work_a_little(self, beats: int) -> None:
        self.lives.link.revive()
        for _ in range(beats):
            self.lives.do(self.lives.beat())

    @rule()
    def work(self) -> None:
        if not self.lives.disk_full:
            self.lives.do(self.lives.settle())

    @rule(unsent=st.booleans())
    def the_engine_dies(self, unsent: bool) -> None:
        self.lives.link.kill(unsent)

    @rule(calls=st.integers(1, 4))
    def the_engine_will_die_in_a_call(self, calls: int) -> None:
        self.lives.link.engine.fuse = calls

    @rule(often=st.booleans(), files=st.booleans())
    def the_service_dies(self, often: bool, files: bool) -> None:
        if self.lives.disk_full:
            return
        self.lives.do(self.lives.kill())
        self.lives.do(self.lives.begin(often, files))

    @rule(full=st.booleans())
    def the_disk_fills_or_is_freed(self, full: bool) -> None:
        self.lives.fill_disk(full)

    @rule()
    def idle_samplers_leave(self) -> None:
        self.lives.service.dispatcher.rest()

    # -- what is let go of --------------------------------------------------------------------------------------------

    @rule(which=pick)
    def close_a_sampler(self, which: int) -> None:
        alive = [s for s in self.samplers if not s.over and (s.origin is None or s.origin.request_id is not None)]
        if not alive or self.lives.disk_full:
            return
        sampler = alive[which % len(alive)]
        sampler.over = True
        for asked in self.asked:
            if asked.kind == "sample" and asked.body["sampling_session_id"] == sampler.sampler_id:  # pyright: ignore
                asked.dropped = True
                # One whose answer was lost may or may not be there; its client has given it up.
        self.lives.do(self.lives.post(sampler.tenant, f"samplers/{sampler.sampler_id}/close", {}))

    @rule(tenant=st.integers(0, TENANTS - 1))
    def finish_a_session(self, tenant: int) -> None:
        self.lives.fill_disk(False)
        self._complete(lambda asked: asked.tenant == tenant and asked.kind != "sample")
        ended = self.sessions[tenant]
        self.lives.do(self.lives.post(tenant, f"sessions/{ended}/finish", {"reason": {"type": "success"}}))
        for one in [*self.runs, *self.samplers]:
            one.over |= one.tenant == tenant
        for asked in self.asked:
            if asked.tenant == tenant:
                asked.may_fail = asked.dropped = True
        self.saved = [entry for entry in self.saved if entry[3].tenant != tenant]
        self.sessions[tenant] = self._open(tenant)

    # -- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def the_engine_holds_only_what_the_programs_say(self) -> None:
        if self.lives.running is None or self.lives.link.host is None:
            return
        engine = self.lives.link.engine
        runs = {run.model_id: run for run in self.runs}
        for model_id, model in engine.models.items():
            assert (model.weights, tuple(model.gradients)) in runs[model_id].states, model_id
        samplers = {sampler.sampler_id: sampler.weights for sampler in self.samplers}
        for sampler_id, weights in engine.samplers.items():
            assert weights == samplers[sampler_id], sampler_id

    def _complete(self, wanted: Any) -> None:
        """Send, work and read until every request that is wanted has its answer."""
        mine = [asked for asked in self.asked if wanted(asked)]
        while open_ := [a for a in mine if a.outcome is None and not (a.dropped and a.request_id is None)]:
            before = len(open_), sum(asked.request_id is None for asked in open_)
            for asked in open_:
                if asked.request_id is None and asked.may_be_sent:
                    self._accept(asked)
            self.lives.do(self.lives.settle())
            for asked in open_:
                if asked.request_id is not None:
                    self._read(asked)
            left = [a for a in open_ if a.outcome is None]
            assert (len(left), sum(a.request_id is None for a in left)) < before, f"these never settle: {left}"

    def everything_comes_to_its_end(self) -> None:
        """Every future settles as it must, and what is left in memory and on disk is what the programs say."""
        self.lives.fill_disk(False)
        self._complete(lambda asked: True)
        self.lives.do(self.lives.settle())
        self.the_engine_holds_only_what_the_programs_say()
        engine = self.lives.link.engine
        alive = {run.model_id: run for run in self.runs if not run.over}
        assert set(engine.models) == set(alive)
        for model_id, run in alive.items():
            model, reference = engine.models[model_id], run.reference
            if not reference.broken:
                assert (model.weights, tuple(model.gradients)) == (reference.weights, reference.gradients)
            assert model.weights == reference.weights
        assert set(engine.samplers) <= {sampler.sampler_id for sampler in self.samplers if not sampler.over}
        for path, _, weights, run, kind in self.saved:
            folder: Path = self.lives.folder / "data" / "checkpoints" / run.model_id / kind
            found = [f for f in folder.glob("*/state") if f.parent.name.split("~")[0] == path.rsplit("/", 1)[1]]
            assert [state.read_text() for state in found] == [repr(weights)], path
        # Each is asked for once more: what was told stays told.
        for asked in self.asked:
            if asked.request_id is not None:
                self._read(asked)
