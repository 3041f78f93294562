"""What a run was made with: a row for each start in `starts.jsonl`, and a diff of what was not committed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import tinsmith

FILE = "starts.jsonl"
# A repository on a network disk may take long; a run must not wait for it.
_GIT_S = 10.0
# What computes, and what reads the models: numbers may differ from one version to the next.
_COMPUTING = ("torch", "transformers")


def code_version(folder: Path, first_step: int) -> dict[str, Any]:
    """Describe this start of a run; writes `uncommitted-DATE-TIME.diff` where the script's repository has changes.

    Args:
        folder: takes the diff.
        first_step: the step that it starts at.

    Raises:
        OSError: the diff cannot be written.
    """
    started = datetime.now(UTC)
    version: dict[str, Any] = {
        "started": started.isoformat(timespec="seconds"),
        "first_step": first_step,
        "tinsmith": tinsmith.__version__,
        "python": platform.python_version(),
        **{name: found for name in _COMPUTING if (found := _installed(name)) is not None},
        "platform": platform.platform(),
        # As it was typed: `sys.argv` does not say whether it was a file or a module.
        "command": sys.orig_argv,
        "folder": os.getcwd(),
        "pid": os.getpid(),
    }
    place = _code_of_the_user()
    commit = _git(place, "rev-parse", "HEAD")
    if commit is not None:
        diff = _git(place, "diff", "HEAD") or ""
        version |= {"git_commit": commit.strip(), "git_dirty": bool(diff)}
        if diff:
            version["diff"] = f"uncommitted-{started:%Y%m%d-%H%M%S}-{os.getpid()}.diff"
            (folder / version["diff"]).write_text(diff, encoding="utf-8")
    return version


def _installed(name: str) -> str | None:
    try:
        return installed_version(name)
    except PackageNotFoundError:
        return None


def _code_of_the_user() -> Path:
    """Return the folder whose repository made the run: that of the user's script, else the one they stand in.

    A recipe of the package, a command, a notebook are no script of the user's; of the package the version is told.
    """
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is None:
        return Path.cwd()
    path = Path(script).resolve()
    package = Path(tinsmith.__file__).resolve().parent
    # Commands lie in the environment, which may lie in a repository of somebody's.
    ours = any(path.is_relative_to(place) for place in (package, Path(sys.prefix).resolve()))
    return Path.cwd() if ours else path.parent


def _git(place: Path, *arguments: str) -> str | None:
    """Return what git says in a folder; None where there is no git, no repository or no commit."""
    # A reader must not take the lock of an index that somebody is working with.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", str(place), "--no-pager", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_GIT_S, env=environment, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace")
