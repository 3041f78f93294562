"""Which code a run was made with: a row for each start in `starts.jsonl`, and a diff of what was not committed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tinsmith

FILE = "starts.jsonl"
# A repository on a network disk may take long; a run must not wait for it.
_GIT_S = 10.0


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
        "platform": platform.platform(),
        # As it was typed: `sys.argv` does not say whether it was a file or a module.
        "command": sys.orig_argv,
        "folder": os.getcwd(),
        "pid": os.getpid(),
    }
    # The script's repository, not the folder one stands in: the code is what made the run.
    script = getattr(sys.modules["__main__"], "__file__", None)
    commit = _git(script, "rev-parse", "HEAD")
    if commit is not None:
        diff = _git(script, "diff", "HEAD") or ""
        version |= {"git_commit": commit.strip(), "git_dirty": bool(diff)}
        if diff:
            version["diff"] = f"uncommitted-{started:%Y%m%d-%H%M%S}-{os.getpid()}.diff"
            (folder / version["diff"]).write_text(diff, encoding="utf-8")
    return version


def _git(script: str | None, *arguments: str) -> str | None:
    """Return what git says in a script's folder; None where there is no git, no repository or no commit."""
    if script is None:
        return None
    # A reader must not take the lock of an index that somebody is working with.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", str(Path(script).resolve().parent), "--no-pager", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_GIT_S, env=environment, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace")
