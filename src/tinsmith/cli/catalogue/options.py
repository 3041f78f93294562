"""Options that the commands on the catalogue share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from tinsmith.types.errors import invalid
from tinsmith.types.names.paths import CheckpointPath

BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        help="The service to ask. Default: TINSMITH_BASE_URL; unset, this machine's data folder.",
        show_default=False,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", metavar="DIR", help="The data folder to read. Default: TINSMITH_HOME.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Limit = Annotated[int, typer.Option(min=0, help="At most so many, newest first; 0 lists all.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Path_ = Annotated[str, typer.Argument(metavar="tinker://...", help="The checkpoint's address.")]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_TTL = re.compile(r"(\d+)([smhdw]?)")


def parsed(path: str) -> CheckpointPath:
    """Read a checkpoint's address.

    Raises:
        UserError: it is none.
    """
    return CheckpointPath.parse(path, "checkpoint")


def seconds_of(text: str) -> int | None:
    """Read a lifetime: `90m`, `12h`, `7d`, `2w`, plain seconds, or `never`, which is None.

    Raises:
        UserError: it is none of these.
    """
    if text == "never":
        return None
    found = _TTL.fullmatch(text)
    if found is None:
        raise invalid("--ttl", text, "seconds, or a number with a unit such as 12h, 7d or 2w, or never")
    return int(found[1]) * _UNITS[found[2] or "s"]
