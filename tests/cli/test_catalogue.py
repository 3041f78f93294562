"""Commands on the catalogue: from the data folder that a service holds, and from that service by URL, alike."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from typer.testing import CliRunner

from tests.server.client import Client
from tests.support.fakes.fake_link import FakeLink
from tinsmith.cli.catalogue.options import seconds_of
from tinsmith.cli.main import app
from tinsmith.server.http.listener import Listener, bind
from tinsmith.server.service import Service
from tinsmith.server.store.catalog import BaseModels
from tinsmith.settings import Settings
from tinsmith.types.errors import UserError

runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})
HEAVY = ("torch", "transformers", "fastapi", "uvicorn", "tinsmith.engine", "tinsmith.embedded", "tinsmith.cookbook")


class Served(NamedTuple):
    """A service that is running, with what it keeps."""

    url: str
    data_dir: Path
    run: str
    state: str
    sampler: str

    def place(self, how: str) -> list[str]:
        return ["--base-url", self.url] if how == "url" else ["--data-dir", str(self.data_dir)]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A service in a thread of this process, with one run of two checkpoints."""
    found: list[Served] = []
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        link = FakeLink()
        folder = tmp_path / "data"
        models = BaseModels({info.name: tmp_path for info in link.infos})
        service = Service(Settings(home=folder, long_poll_s=2.0), link, models, owner="local")
        await service.start()
        await service.wait_ready()
        listener = Listener(service, "127.0.0.1", bind("127.0.0.1", 0))
        # Not `run`, which takes the signals of the process and so wants its main thread.
        answering = asyncio.create_task(listener._server.serve(sockets=[listener._socket]))
        async with httpx.AsyncClient(base_url=listener.url) as http:
            client = Client(http)
            await client.open()
            run = await client.create_model()
            state = await client.save_state(run, "000020", user_metadata={"recipe": "sl_basic", "step": "20"})
            sampler = await client.save_sampler(run, "there")
        found.append(Served(listener.url, folder, run, state, sampler))
        ready.set()
        await asyncio.to_thread(stop.wait)
        listener.stop()
        await answering
        await service.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(30)
    yield found[0]
    stop.set()
    thread.join(30)


def run(*arguments: str, input: str | None = None, code: int = 0) -> str:
    result = runner.invoke(app, list(arguments), input=input)
    assert result.exit_code == code, result.output
    return result.output


HOW = pytest.mark.parametrize("how", ["url", "folder"])


@HOW
def test_lists_show_what_a_checkpoint_is(served: Served, how: str) -> None:
    table = run("checkpoint", "list", *served.place(how))
    head, sampler, state = table.splitlines()
    assert head.split() == "saved base model rank recipe step size expires checkpoint".split()  # noqa: SIM905
    assert state.split()[2:6] == ["tiny", "4", "sl_basic", "20"]
    assert state.split()[-2:] == ["never", served.state]
    assert sampler.split()[-1] == served.sampler
    listed = json.loads(run("checkpoint", "list", "--json", "--run-id", served.run, *served.place(how)))
    assert [(row["tinker_path"], row["base_model"], row["lora_rank"]) for row in listed] == [
        (served.sampler, "tiny", 4),
        (served.state, "tiny", 4),
    ]
    assert len(json.loads(run("checkpoint", "list", "--json", "--limit", "1", *served.place(how)))) == 1
    runs = run("run", "list", *served.place(how)).splitlines()
    assert runs[0].split()[-1] == "run"
    assert served.run in runs[1]
    assert json.loads(run("run", "list", "--json", *served.place(how)))[0]["checkpoint_count"] == 2


@HOW
def test_one_thing_is_shown_with_all_that_is_known(served: Served, how: str) -> None:
    told = run("checkpoint", "info", served.state, *served.place(how))
    facts = dict(line.split("  ", 1) for line in told.splitlines())
    assert {name: value.strip() for name, value in facts.items()} | {"size": "", "saved": ""} == {
        "checkpoint": served.state,
        "kind": "training state",
        "base model": "tiny",
        "rank": "4",
        "acts on": "attn, mlp, unembed",
        "recipe": "sl_basic",
        "step": "20",
        "size": "",
        "saved": "",
        "expires": "never",
        "readers": "its owner",
        "run": served.run,
    }
    assert json.loads(run("checkpoint", "info", served.state, "--json", *served.place(how)))["train_mlp"] is True
    told = run("run", "info", served.run, *served.place(how))
    assert served.state in told
    assert served.sampler in told
    assert json.loads(run("run", "info", served.run, "--json", *served.place(how)))["base_model"] == "tiny"
    for command in (["checkpoint", "info", served.state + "x"], ["run", "info", "nobody"]):
        said = run(*command, *served.place(how), code=1)
        assert said.count("\n") == 1
        assert "expected a" in said


@HOW
def test_changes_are_seen_by_the_service(served: Served, how: str) -> None:
    place = served.place(how)
    path = served.state

    def seen() -> dict[str, object]:
        answer = httpx.get(f"{served.url}/api/v1/training_runs/{served.run}/checkpoints").json()
        return {one["tinker_path"]: one for one in answer["checkpoints"]}

    run("checkpoint", "publish", path, *place)
    assert seen()[path]["public"]  # pyright: ignore[reportIndexIssue]
    run("checkpoint", "unpublish", path, *place)
    assert "expires " in run("checkpoint", "set-ttl", path, "--ttl", "2d", *place)
    assert "expires_at" in seen()[path]  # pyright: ignore[reportOperatorIssue]
    assert "in 1 day" in run("checkpoint", "list", *place)
    run("checkpoint", "set-ttl", path, "--ttl", "never", *place)
    assert "expires_at" not in seen()[path]  # pyright: ignore[reportOperatorIssue]
    assert "ttl_seconds: got 60" in run("checkpoint", "set-ttl", path, "--ttl", "60", *place, code=1)

    for said in ("n\n", ""):
        refused = run("checkpoint", "delete", path, *place, input=said, code=1)
        assert path in refused
        assert "nothing was deleted; answer y, or give --yes" in refused
    # One that is not there keeps the others.
    run("checkpoint", "delete", path, f"{path}x", "--yes", *place, code=1)
    assert path in seen()
    assert run("checkpoint", "delete", path, *place, input="y\n").endswith(f"deleted {path}\n")
    assert run("checkpoint", "delete", served.sampler, "-y", *place) == f"deleted {served.sampler}\n"
    assert seen() == {}


def test_where_nothing_was_trained_lists_are_empty_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("TINSMITH_HOME", str(home))
    assert run("checkpoint", "list") == f"no checkpoints in {home}\n"
    assert run("run", "list") == f"no training runs in {home}\n"
    assert run("key", "list").startswith(f"no keys in {home}")
    for command in (["checkpoint", "list"], ["run", "list"], ["key", "list"]):
        assert json.loads(run(*command, "--json")) == []
    for command in (
        ["checkpoint", "info", "tinker://r/weights/x"],
        ["checkpoint", "delete", "tinker://r/weights/x"],
        ["run", "info", "r"],
    ):
        assert "where nothing was ever" in run(*command, code=1)
    mistyped = str(tmp_path / "hmoe" / "data")
    for command in (
        ["checkpoint", "list"],
        ["run", "list"],
        ["key", "list"],
        ["key", "revoke", "1"],
        ["key", "create", "ann"],
    ):
        assert f"--data-dir: got '{mistyped}'" in run(*command, "--data-dir", mistyped, code=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("12h", 43_200), ("7d", 604_800), ("never", None)]
)
def test_lifetimes_have_units(text: str, seconds: int | None) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-3", "1.5h", "3 d", "7days"])
def test_a_lifetime_that_is_none_is_named(text: str) -> None:
    with pytest.raises(UserError, match=r"--ttl: got .*, expected seconds, or a number with a unit"):
        seconds_of(text)


def test_neither_an_engine_nor_torch_is_loaded(served: Served) -> None:
    places = [served.place("folder"), served.place("url")]
    commands = [
        command + place
        for place in places
        for command in (
            ["checkpoint", "list"],
            ["checkpoint", "info", served.state],
            ["checkpoint", "set-ttl", served.state, "--ttl", "7d"],
            ["checkpoint", "publish", served.state],
            ["run", "list"],
            ["run", "info", served.run],
        )
    ]
    commands += [["key", "list", *places[0]], ["checkpoint", "delete", "--yes", served.state, *places[0]]]
    commands += [[*name, "--help"] for name in (["chat"], ["demo"], ["serve"], ["run"], ["checkpoint", "export"])]
    code = f"""
import sys
from typer.testing import CliRunner
from tinsmith.cli.main import app
for command in {commands!r}:
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, (command, done.output)
    print([m for m in {HEAVY!r} if m in sys.modules] or "")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
