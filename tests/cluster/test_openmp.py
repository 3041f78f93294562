"""Engines are started so that their threads wait for each other briefly at full load, and then sleep."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tinsmith.cluster.child import ChildLink
from tinsmith.cluster.loading import load_engine
from tinsmith.cluster.model_sources import ModelSpec
from tinsmith.cluster.openmp import torch_waits_briefly, waiting
from tinsmith.settings import Settings

BRIEFLY = {"GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "1"}
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.fixture(autouse=True)
def _nobody_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", CHOICES)
def test_whoever_has_chosen_knows_what_they_want(name: str) -> None:
    assert waiting({}) == BRIEFLY
    environment = {name: "1"}
    assert waiting(environment) == {}
    with torch_waits_briefly(environment):
        assert environment == {name: "1"}
    assert environment == {name: "1"}


def test_what_was_added_is_taken_away_even_where_the_import_fails() -> None:
    environment = {"HOME": "/root"}
    with pytest.raises(ImportError), torch_waits_briefly(environment):  # noqa: PT012
        assert environment == {"HOME": "/root"} | BRIEFLY
        raise ImportError
    assert environment == {"HOME": "/root"}


def test_an_engine_of_this_process_is_imported_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    policies: list[str | None] = []

    class Engine:
        @classmethod
        def load(cls, *args: object) -> Engine:
            return cls()

    class Module(ModuleType):
        def __getattr__(self, name: str) -> type[Engine]:
            policies.append(os.environ.get("GOMP_SPINCOUNT"))
            return Engine

    monkeypatch.setitem(sys.modules, "tinsmith.engine.engine", Module("tinsmith.engine.engine"))
    load_engine(ModelSpec("tiny", "somewhere"), Settings())
    assert policies
    assert set(policies) == {"2000"}
    assert not os.environ.keys() & BRIEFLY.keys()


@pytest.mark.parametrize(("chosen", "wanted"), [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_the_process_of_the_engines_starts_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str], wanted: str
) -> None:
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    # Of a module that ends at once: what counts is what it was started with.
    (tmp_path / "telling.py").write_text(
        "import os, pathlib\npathlib.Path(__file__).with_name('told').write_text(os.environ['GOMP_SPINCOUNT'])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    link = ChildLink([], Settings(), module="telling")

    async def start() -> None:
        with pytest.raises(Exception, match="engine process"):
            await link.start(lambda event: None)
        await link.close()

    asyncio.run(start())
    assert (tmp_path / "told").read_text() == wanted
