"""A real `tinsmith serve` for tests: its own process, port and data folder, tiny checkpoints, stopped by its id."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from benchmarks.spawn import ServerProcess, free_port, tinsmith_command
from tinsmith.models import path as shipped_path
from tinsmith.types.names.paths import CheckpointPath

if TYPE_CHECKING:
    import tinker

KEY = "tml-the-first-key"
LLAMA = "tiny/llama"
QWEN2 = "tiny/qwen2"
QWEN3 = "tiny/qwen3"
MOE = "tiny/qwen3-moe"
# Of the same shape as LLAMA, with other weights.
OTHER_LLAMA = "tiny/llama-other"
# The embedded model under a name that the official cookbook's tables know, as a base model with `role_colon`.
BASE_OF_THE_TABLES = "Qwen/Qwen3-8B-Base"
FAMILY_OF = {LLAMA: "llama", QWEN2: "qwen2", QWEN3: "qwen3", MOE: "qwen3_moe"}


def model_folder(name: str) -> Path:
    """Return the folder of a served model's checkpoint."""
    from tests.support.checkpoints import checkpoint  # torch, which most areas' tests do without

    if name == OTHER_LLAMA:
        return checkpoint("llama", seed=1)
    if name == BASE_OF_THE_TABLES:
        return shipped_path()
    return checkpoint(FAMILY_OF[name]) if name in FAMILY_OF else Path(name)


class LiveServer:
    """A `tinsmith serve` process and what a client needs to reach it.

    Attributes:
        url: base URL; the same after a restart.
        key: an API key.
        data_dir: the service's data folder.
        models: names that are served, to folders. One name is its folder's own path, so that the official SDK finds
            its tokenizer without a hub.
    """

    def __init__(
        self, folder: Path, *names: str, options: tuple[str, ...] = (), models: Mapping[str, Path] | None = None
    ) -> None:
        self.key = KEY
        self.data_dir = folder / "data"
        known = {name: model_folder(name) for name in names}
        self.models = {name: str(place) for name, place in {**known, **(models or {})}.items()}
        port = free_port()
        command = tinsmith_command(port, self.data_dir, self.models, "--device", "cpu", *options)
        env = {"TINSMITH_API_KEY": KEY, "TINSMITH_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
        self._process = ServerProcess(command, port, folder / "serve.log", env)
        self.url = self._process.url

    def start(self) -> None:
        """Start, or start again on the same data folder, and wait until every model is loaded."""
        self._process.start()

    def stop(self) -> None:
        """Stop in an orderly way."""
        self._process.stop()

    @property
    def log(self) -> str:
        """The end of what the server printed."""
        return self._process.tail(20_000)

    @property
    def pid(self) -> int:
        """The id of the API process."""
        return self._process.pid

    def engine_processes(self) -> list[psutil.Process]:
        """Return the child processes of the API process: the engine hosts."""
        return psutil.Process(self.pid).children(recursive=True)

    def kill(self) -> None:
        """Kill the API process with signal 9 and wait until its engine processes have noticed and gone."""
        children = self.engine_processes()
        self._process.kill()
        _, alive = psutil.wait_procs(children, timeout=30)
        if alive:
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            raise RuntimeError(f"engine processes {[p.pid for p in alive]} outlived the server by 30 s")

    def kill_engine(self) -> None:
        """Kill every engine process with signal 9."""
        for process in self.engine_processes():
            process.kill()
            process.wait(10)

    def service(self) -> tinker.ServiceClient:
        """Return a new `ServiceClient` of the official SDK."""
        import tinker

        return tinker.ServiceClient(base_url=self.url, api_key=self.key)

    def http(self, key: str | None = None) -> httpx.Client:
        """Return a plain HTTP client that sends an API key."""
        return httpx.Client(base_url=self.url, headers={"X-API-Key": key or self.key}, timeout=60.0)

    def checkpoint_folder(self, path: str) -> Path:
        """Return where the files of a saved checkpoint lie in the data folder.

        Raises:
            FileNotFoundError: there is no such checkpoint.
        """
        parsed = CheckpointPath.parse(path)
        folders = self.data_dir / "checkpoints" / parsed.run_id / parsed.kind
        # A name that was saved again has a tail behind `~`; the newest is the one that counts.
        found = [f for f in folders.glob(f"{parsed.name}*") if f.name.split("~")[0] == parsed.name]
        if not found:
            raise FileNotFoundError(f"{path}: got {sorted(folders.glob('*'))}, expected its folder")
        return max(found, key=lambda f: f.stat().st_mtime_ns)


@pytest.fixture(scope="session")
def live_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for all tests of a worker; a test that kills or stops a server starts one of its own."""
    names = (LLAMA, OTHER_LLAMA, QWEN2, QWEN3, MOE, str(model_folder(LLAMA)))
    server = LiveServer(tmp_path_factory.mktemp("live"), *names)
    server.start()
    try:
        yield server
    finally:
        server.stop()
