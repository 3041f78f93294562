"""Fills a journal with every kind of operation, some of them still without an outcome when the service is killed."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import psutil
import tinker

from benchmarks.spawn import ServerProcess
from tests.compatibility.datums import policy, supervised
from tests.compatibility.serving import ADAM, MODEL, VOCABULARY, Raw, pass_body, sample_body
from tests.support.live_server import KEY

TIMEOUT = 60
OFFICIAL_ADAM = tinker.AdamParams(**ADAM)
# Bodies and results above 64 KiB are kept as files.
BULKY = (480,) * 9
TEN_YEARS_S = 315_360_000
# Long enough for all that comes after the first step of `a`, so that it stays in the journal.
POINT_EVERY_S = 20


def fill(server: ServerProcess, data_dir: Path) -> None:
    """Fill the data folder of a running server; it is killed when this returns."""
    Filling(server, data_dir).run()


class Filling:
    """The script, in parts: what the official SDK asks for, what only a raw client would, what stays unanswered.

    The models: `a` is trained, saved, and loaded into; `b` was loaded; `c` has no recovery point.
    """

    def __init__(self, server: ServerProcess, data_dir: Path) -> None:
        self.server = server
        self.data_dir = data_dir
        self.raw = Raw(server.url)
        self.service = tinker.ServiceClient(base_url=server.url, api_key=KEY, user_metadata={"made": "before"})
        self.session = self.service.holder.get_session_id()

    def run(self) -> None:
        """Do all of it."""
        self.of_the_sdk()
        self.failures()
        self.loads_and_bulk()
        self.sampling_sessions()
        self.snapshot_in_memory_only()
        (engine,) = psutil.Process(self.server.pid).children(recursive=True)
        engine.send_signal(signal.SIGSTOP)
        self.without_outcome()
        self.server.kill()
        engine.wait(30)

    # -- helpers ------------------------------------------------------------------------------------------------------

    def rows(self, query: str, *values: Any) -> list[Any]:
        """Ask the database that the server is using."""
        database = sqlite3.connect(f"file:{self.data_dir / 'tinsmith.db'}?mode=ro", uri=True)
        try:
            return database.execute(query, values).fetchall()
        finally:
            database.close()

    def next_place(self, model: str) -> dict[str, Any]:
        """Return a model and its next place; the raw client goes on where the SDK has stopped."""
        ((last,),) = self.rows("select max(seq_id) from operations where model_id = ?", model)
        return {"model_id": model, "seq_id": (last or 0) + 1}

    def train(self, model: str, seed: int, **how: Any) -> str:
        """Ask for a pass."""
        return self.raw.submit("forward_backward", pass_body(**self.next_place(model), seed=seed, **how))

    def step(self, model: str) -> str:
        """Ask for a step of the optimizer."""
        return self.raw.submit("optim_step", self.next_place(model) | {"adam_params": ADAM})

    def save(self, model: str, kind: str, **fields: Any) -> str:
        """Ask for a save; `kind` is the last part of the path."""
        return self.raw.submit(kind, self.next_place(model) | fields)

    # -- with outcomes ------------------------------------------------------------------------------------------------

    def of_the_sdk(self) -> None:
        """What a script of the official SDK does; the recovery point of `a` is taken after its first step."""
        a = self.service.create_lora_training_client(MODEL, rank=4, seed=3).result(TIMEOUT)
        self.a = a.model_id
        time.sleep(POINT_EVERY_S)
        a.forward_backward(supervised((12, 20)), "cross_entropy").result(TIMEOUT)
        a.optim_step(OFFICIAL_ADAM).result(TIMEOUT)
        while not self.rows("select 1 from recovery_points where model_id = ?", self.a):
            time.sleep(0.05)
        a.forward_backward(supervised((7, 9), 1, two_d=True), "cross_entropy").result(TIMEOUT)
        a.forward_backward(policy((11,), 2), "ppo", {"clip_low_threshold": 0.9}).result(TIMEOUT)
        a.optim_step(OFFICIAL_ADAM).result(TIMEOUT)
        a.forward(supervised((5,), 3), "cross_entropy").result(TIMEOUT)
        self.state = a.save_state("state").result(TIMEOUT).path
        self.saved = a.save_weights_for_sampler("sampler").result(TIMEOUT).path
        sampler = a.save_weights_and_get_sampling_client().result(TIMEOUT)
        self.snapshot = sampler._sampling_session_id
        params = tinker.SamplingParams(max_tokens=6, seed=4, stop=[])
        sampler.sample(tinker.ModelInput.from_ints([1, 2, 3]), 1, params).result(TIMEOUT)
        b = self.service.create_training_client_from_state_with_optimizer(self.state).result(TIMEOUT)
        self.b = b.model_id
        b.forward_backward(supervised((8,), 4), "cross_entropy").result(TIMEOUT)
        c = self.service.create_lora_training_client(MODEL, rank=8, seed=4, train_mlp=False).result(TIMEOUT)
        self.c = c.model_id
        c.forward_backward(policy((6, 10), 5), "importance_sampling").result(TIMEOUT)

    def failures(self) -> None:
        """What is refused at the door, what fails in the engine, and the steps that fail because of it."""
        refused = self.train(self.a, 6, first_token=70_000)
        missed = self.step(self.a)
        self.train(self.a, 7, loss_fn="importance_sampling", logprobs=-1000.0)
        overflowed = self.step(self.a)
        for request_id in (refused, missed, overflowed):
            assert "error" in self.raw.outcome(request_id).json()
        assert "error" in self.raw.done("create_custom_loss", {}).json()
        assert "error" in self.raw.done("asample", sample_body(self.snapshot, 90, prompt=[70_000])).json()

    def loads_and_bulk(self) -> None:
        """A state loaded into a model that has moved on, a body that is kept as a file, saves with all they carry."""
        self.train(self.a, 16)
        self.raw.outcome(self.step(self.a))
        load = self.next_place(self.a) | {"path": self.state, "optimizer": True}
        self.raw.done("load_weights", load)
        self.train(self.a, 8)
        self.raw.outcome(self.step(self.a))
        self.train(self.a, 9, lengths=BULKY)
        self.raw.outcome(self.step(self.a))
        more = {"ttl_seconds": TEN_YEARS_S, "user_metadata": {"note": "kept"}}
        self.raw.outcome(self.save(self.a, "save_weights", path="kept", **more))
        self.raw.outcome(self.save(self.a, "save_weights", path="kept", overwrite=True, **more))
        self.raw.outcome(self.save(self.c, "save_weights_for_sampler", path="narrow", user_metadata={"n": 1}))

    def sampling_sessions(self) -> None:
        """Sampling sessions of the base and of a checkpoint; a result that is kept as a file."""
        opened = {"session_id": self.session, "sampling_session_seq_id": 100, "base_model": MODEL}
        self.of_base = self.raw.answer("create_sampling_session", opened)["sampling_session_id"]
        opened = {"session_id": self.session, "sampling_session_seq_id": 101, "model_path": self.saved}
        self.of_checkpoint = self.raw.answer("create_sampling_session", opened)["sampling_session_id"]
        bulky = {"prompt_logprobs": True, "topk_prompt_logprobs": 64, "num_samples": 1}
        prompt = [n * 7 % VOCABULARY for n in range(150)]
        self.raw.done("asample", sample_body(self.of_base, 0, prompt, **bulky))
        self.raw.done("asample", sample_body(self.of_checkpoint, 0))

    def snapshot_in_memory_only(self) -> None:
        """A snapshot that is answered but not yet on disk: the engine may write no file any more."""
        (engine,) = psutil.Process(self.server.pid).children(recursive=True)
        engine.rlimit(psutil.RLIMIT_FSIZE, (0, psutil.RLIM_INFINITY))
        answer = self.raw.outcome(self.save(self.a, "save_weights_for_sampler", sampling_session_seq_id=102)).json()
        self.in_memory = answer["sampling_session_id"]
        self.raw.done("asample", sample_body(self.in_memory, 0))
        assert self.rows("select on_disk from samplers where id = ?", self.in_memory) == [(0,)]

    # -- without ------------------------------------------------------------------------------------------------------

    def without_outcome(self) -> None:
        """Every kind once more, accepted while the engine stands still."""
        self.train(self.a, 10, lengths=BULKY)
        self.train(self.a, 11, forward_only=True)
        self.step(self.a)
        self.save(self.a, "save_weights", path="late")
        self.save(self.a, "save_weights_for_sampler", path="late")
        self.save(self.a, "save_weights_for_sampler", sampling_session_seq_id=103)
        self.raw.submit("load_weights", self.next_place(self.a) | {"path": self.state, "optimizer": False})
        self.train(self.a, 12, first_token=70_000)
        self.step(self.a)
        self.train(self.a, 13, loss_fn="cispo")
        self.step(self.a)
        coming = f"{self.session}:sample:103"
        for sampler in (self.snapshot, self.of_checkpoint, self.of_base, self.in_memory, coming):
            self.raw.submit("asample", sample_body(sampler, 50, prompt_logprobs=True))
        self.step(self.b)
        self.save(self.b, "save_weights_for_sampler", path="late")
        self.train(self.c, 14, loss_fn="dro")
        self.step(self.c)
        self.new_models()
        self.imported()

    def new_models(self) -> None:
        """A model made and one loaded, with work for them before either is there."""
        made = {"session_id": self.session, "model_seq_id": 50, "base_model": MODEL}
        made |= {"lora_config": {"rank": 4, "seed": 9}, "user_metadata": {"late": True}}
        loaded = {"session_id": self.session, "model_seq_id": 51, "path": self.state, "optimizer": True}
        for path, body in (("create_model", made), ("load_weights", loaded)):
            model = self.raw.answer(path, body)["model_id"]
            self.train(model, 15)
            self.step(model)

    def imported(self) -> None:
        """An adapter made elsewhere; its session is closing when the service dies."""
        run, kind, name = self.saved.removeprefix("tinker://").split("/")
        folder = self.data_dir / "checkpoints" / run / kind / name
        request = {
            "base_model": MODEL,
            "name": "imported",
            "adapter_config": json.loads((folder / "adapter_config.json").read_text()),
            "user_metadata": {"from": "elsewhere"},
            "type": "import_checkpoint",
        }
        body = json.dumps(request).encode() + b"\n" + (folder / "adapter_model.safetensors").read_bytes()
        answer = self.raw.http.post("import_checkpoint", content=body, headers={"X-Idempotency-Key": "one import"})
        assert answer.status_code == 200, answer.text
