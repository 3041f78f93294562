"""Looks for packages of an extra, and says in one sentence what to install."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from tinsmith.installing import install_command


def require(packages: Sequence[str], extra: str, what: str) -> None:
    """Check that packages are there.

    Args:
        packages: their import names.
        extra: the extra of this distribution that brings them.
        what: what needs them, as the sentence begins.

    Raises:
        ModuleNotFoundError: naming the first that is not; `python -m` of a recipe ends with the sentence alone.
    """
    # Looked for, not imported: that would cost every command the time of the slowest of them.
    missing = next((name for name in packages if find_spec(name) is None), None)
    if missing is None:
        return
    message = f"{what} needs {missing}, which is not installed: {install_command(extra)}"
    # That is what Python puts there while it looks for the module that `-m` names.
    if sys.argv[:1] == ["-m"]:
        raise SystemExit(message)
    raise ModuleNotFoundError(message, name=missing)
