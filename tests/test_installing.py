"""Hints for a missing package fit how this one was installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tinsmith import installing
from tinsmith.installing import install_command, package_command


class Installed:
    """A distribution with the files that its installer left."""

    def __init__(self, installer: str, origin: object) -> None:
        self._files = {"INSTALLER": f"{installer}\n", "direct_url.json": json.dumps(origin) if origin else None}

    def read_text(self, name: str) -> str | None:
        return self._files[name]


CHECKOUT = {"url": "file:///home/ann/my%20src/tinsmith", "dir_info": {"editable": True}}
COPY = {"url": "file:///home/ann/tinsmith", "dir_info": {}}
GIT = {"url": "https://host/tinsmith.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}


@pytest.mark.parametrize(
    ("installer", "origin", "mark", "command"),
    [
        ("pip", None, None, "pip install 'tinsmith[server]'"),
        ("uv", None, None, "uv pip install 'tinsmith[server]'"),
        ("pip", CHECKOUT, None, "pip install -e '/home/ann/my src/tinsmith[server]'"),
        ("uv", CHECKOUT, None, "uv pip install -e '/home/ann/my src/tinsmith[server]'"),
        ("pip", COPY, None, "pip install '/home/ann/tinsmith[server]'"),
        ("pip", GIT, None, "pip install 'tinsmith[server] @ git+https://host/tinsmith.git'"),
        ("pip", None, "pipx_metadata.json", "pipx install --force 'tinsmith[server]'"),
        ("uv", None, "uv-receipt.toml", "uv tool install --force 'tinsmith[server]'"),
        ("uv", COPY, "uv-receipt.toml", "uv tool install --force '/home/ann/tinsmith[server]'"),
    ],
)
def test_an_extra_is_added_by_what_installed_the_package(
    installer: str, origin: object, mark: str | None, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installing, "distribution", lambda _: Installed(installer, origin))
    monkeypatch.setattr(installing.sys, "prefix", str(tmp_path))
    if mark is not None:
        (tmp_path / mark).touch()
    assert install_command("server") == command


def test_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "distribution", lambda _: Installed("uv", None))
    monkeypatch.setattr(installing.sys, "prefix", str(tmp_path))
    assert package_command("wandb") == "uv pip install wandb"
    (tmp_path / "pipx_metadata.json").touch()
    assert package_command("wandb") == "pipx inject tinsmith wandb"


def test_sources_that_were_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise installing.PackageNotFoundError(name)

    monkeypatch.setattr(installing, "distribution", absent)
    assert install_command("cookbook") == "pip install 'tinsmith[cookbook]'"
