"""How to install what is missing, in the words of whatever installed this package: pip, uv, pipx, a checkout."""

from __future__ import annotations

import json
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

NAME = "tinsmith"


def install_command(extra: str) -> str:
    """Return the command that adds an extra to this installation.

    Args:
        extra: of this distribution, e.g. `server`.
    """
    # Programs in an environment of their own: what is installed beside them by pip is gone with their next update.
    if (Path(sys.prefix) / "uv-receipt.toml").is_file():
        return f"uv tool install --force '{_requirement(extra)}'"
    if (Path(sys.prefix) / "pipx_metadata.json").is_file():
        return f"pipx install --force '{_requirement(extra)}'"
    editable = "-e " if _origin().get("dir_info", {}).get("editable") else ""
    return f"{_installer()} install {editable}'{_requirement(extra)}'"


def package_command(package: str) -> str:
    """Return the command that adds another package to the environment that this process runs in."""
    if (Path(sys.prefix) / "pipx_metadata.json").is_file():
        return f"pipx inject {NAME} {package}"
    return f"{_installer()} install {package}"


def _requirement(extra: str) -> str:
    """Return what to ask for: this distribution from where it came from, with the extra."""
    origin = _origin()
    url = str(origin.get("url") or "")
    if "vcs_info" in origin:
        return f"{NAME}[{extra}] @ {origin['vcs_info']['vcs']}+{url}"
    if "dir_info" in origin and url.startswith("file:"):
        return f"{unquote(urlsplit(url).path)}[{extra}]"
    return f"{NAME}[{extra}]"


def _installer() -> str:
    found = _distribution()
    name = (found.read_text("INSTALLER") or "").strip() if found is not None else ""
    return "uv pip" if name == "uv" else "pip"


def _origin() -> dict[str, Any]:
    """Return where the distribution was installed from, as PEP 610 has it; empty for an index."""
    found = _distribution()
    text = found.read_text("direct_url.json") if found is not None else None
    return json.loads(text) if text else {}


def _distribution() -> Distribution | None:
    try:
        return distribution(NAME)
    except PackageNotFoundError:  # run from its sources
        return None
