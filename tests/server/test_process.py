"""Real processes, killed at random with signal 9 while a script of the raw protocol goes on."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.server.client import ADAM, PROTOBUF, datum
from tests.support.live_server import KEY, LLAMA, LiveServer
from tinsmith.types.codec import (
    decode_forward_backward_output,
    decode_sample_response,
    encode_forward_backward_request,
)

STEPS = 16


class Script:
    """A client that repeats whatever was not answered, as the SDKs do, and nothing else."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, headers={"X-API-Key": KEY}, timeout=60)
        self.session = self.post("create_session", {"tags": [], "user_metadata": {}})["session_id"]
        created = {
            "session_id": self.session,
            "model_seq_id": 0,
            "base_model": LLAMA,
            "lora_config": {"rank": 8, "seed": 1},
        }
        self.model = self.result(self.post("create_model", created))["model_id"]
        self.seq = 0

    def post(self, path: str, body: Any, **headers: str) -> dict[str, Any]:
        return self.exchange(path, body, **headers).json()

    def exchange(self, path: str, body: Any, **headers: str) -> httpx.Response:
        deadline = time.monotonic() + 120
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        while True:
            try:
                answer = self.http.post(f"/api/v1/{path}", headers=headers, **content)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code < 500 and answer.status_code != 429:
                assert answer.status_code in (200, 408), answer.text
                return answer
            assert time.monotonic() < deadline, "the service did not come back"
            time.sleep(0.1)

    def result(self, promise: dict[str, Any]) -> Any:
        while True:
            answer = self.exchange("retrieve_future", {"request_id": promise["request_id"]}, Accept=PROTOBUF)
            if answer.status_code == 408:
                continue
            if answer.headers["content-type"] == PROTOBUF:
                sample = "sample_sequence_ids" in promise
                return (decode_sample_response if sample else decode_forward_backward_output)(answer.content)
            assert "error" not in answer.json(), answer.text
            return answer.json()

    def ordered(self, path: str, /, **fields: Any) -> dict[str, Any]:
        self.seq += 1
        return self.post(path, {"model_id": self.model, "seq_id": self.seq} | fields)

    def run(self) -> tuple[list[float], list[list[int]], str]:
        """Train with a pipeline of two passes and a step; sample from a snapshot of every fifth state."""
        losses: list[float] = []
        samples: list[dict[str, Any]] = []
        rng = np.random.default_rng(0)
        for number in range(STEPS):
            promises = []
            for _ in range(2):
                self.seq += 1
                data = [datum(*rng.integers(1, 90, 12).tolist()) for _ in range(3)]
                body = encode_forward_backward_request(self.model, self.seq, data, "cross_entropy")
                promises.append(self.post("forward_backward", body, **{"Content-Type": PROTOBUF}))
            step = self.ordered("optim_step", adam_params=ADAM | {"learning_rate": 1e-3, "eps": 1e-8})
            losses += [self.result(promise).metrics["loss:sum"] for promise in promises]
            self.result(step)
            if number % 5 == 0:
                saved = self.result(self.ordered("save_weights_for_sampler", sampling_session_seq_id=number))
                samples.append(self.sample(saved["sampling_session_id"]))
        tokens = [list(s.tokens) for promise in samples for s in self.result(promise).sequences]
        path = self.result(self.ordered("save_weights", path="end", overwrite=False))["path"]
        return losses, tokens, path

    def sample(self, sampler: str) -> dict[str, Any]:
        prompt = {"chunks": [{"type": "encoded_text", "tokens": [1, 2, 3]}]}
        params = {"max_tokens": 8, "stop": [], "seed": 5}
        body = {
            "sampling_session_id": sampler,
            "seq_id": 0,
            "num_samples": 2,
            "prompt": prompt,
            "sampling_params": params,
        }
        return self.post("asample", body)


class Chaos(threading.Thread):
    """Kills the engine or the whole service again and again, after pauses of at most `longest_pause` seconds."""

    def __init__(self, server: LiveServer, seed: int, longest_pause: float) -> None:
        super().__init__()
        self.kills: list[str] = []
        self._server = server
        self._longest_pause = longest_pause
        self._rng = random.Random(seed)
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(self._rng.uniform(0.02, self._longest_pause)):
            if self._rng.random() < 0.5:
                self._server.kill_engine()
                self.kills.append("engine")
            else:
                self._server.kill()
                self.kills.append("service")
                self._server.start()

    def stop(self) -> None:
        self._over.set()
        self.join()


def weights(server: LiveServer, path: str) -> dict[str, np.ndarray]:
    return load_file(Path(server.checkpoint_folder(path)) / "adapter_model.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.row(11, 116, 210)
@pytest.mark.parametrize("seed", range(2))
def test_kill_9_at_any_moment_changes_nothing(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINSMITH_RECOVERY_INTERVAL_S", "0.5")
    server = LiveServer(tmp_path, LLAMA, options=("--dtype", "float64"))
    server.start()
    try:
        started = time.monotonic()
        losses, tokens, path = Script(server.url).run()
        calm = time.monotonic() - started
        expected = weights(server, path)
        script = Script(server.url)
        chaos = Chaos(server, seed, longest_pause=calm / 4)
        chaos.start()
        try:
            disturbed = script.run()
        finally:
            chaos.stop()
        assert len(chaos.kills) >= 3
        np.testing.assert_allclose(disturbed[0], losses, rtol=1e-9)
        assert disturbed[1] == tokens
        found = weights(server, disturbed[2])
        assert found.keys() == expected.keys()
        assert max(float(np.abs(found[name] - expected[name]).max()) for name in found) <= 1e-5
    finally:
        server.stop()
