"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        help="The service to talk to. Default: TINSMITH_BASE_URL; unset, a service inside this process.",
        show_default=False,
    ),
]
