"""`tinsmith checkpoint`: list what a service has saved, and fetch it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinsmith.cli.options import BaseUrl

if TYPE_CHECKING:
    from tinsmith import RestClient
    from tinsmith.types.responses import Checkpoint

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List checkpoints and fetch them.")
_PAGE = 100
_WIDTH = 600


class Format(StrEnum):
    """How a list is printed."""

    TABLE = "table"
    JSON = "json"


@app.command("list")
def list_checkpoints(
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Only those of one training run.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many, newest first; 0 lists all.")] = 20,
    output: Annotated[
        Format, typer.Option("--format", "-f", help="Table for people, JSON for programs.")
    ] = Format.TABLE,
    base_url: BaseUrl = None,
) -> None:
    """List saved checkpoints, newest first."""
    import tinsmith

    client = tinsmith.RestClient(base_url=base_url)
    found = client.list_checkpoints(run).result().checkpoints if run else _all_checkpoints(client, limit)
    found = found[: limit or None]
    if output is Format.JSON:
        typer.echo("[" + ",\n ".join(checkpoint.model_dump_json() for checkpoint in found) + "]")
    else:
        _print_table(found)


@app.command()
def export(
    path: Annotated[str, typer.Argument(metavar="tinker://...", help="A training state or weights for sampling.")],
    folder: Annotated[Path, typer.Argument(help="Where to put it: an empty folder, or one that does not exist.")],
    base_url: BaseUrl = None,
) -> None:
    """Write a checkpoint's adapter as a plain PEFT folder.

    It holds adapter_model.safetensors and adapter_config.json, checked against the service's checksums, and loads with
    peft.PeftModel.from_pretrained(model, FOLDER).
    """
    import tinsmith

    written = tinsmith.RestClient(base_url=base_url).download_checkpoint(path, folder).result()
    typer.echo(f"{written}: " + ", ".join(sorted(file.name for file in written.iterdir())))


def _all_checkpoints(client: RestClient, limit: int) -> list[Checkpoint]:
    found: list[Checkpoint] = []
    while True:
        page = client.list_user_checkpoints(limit=_PAGE, offset=len(found)).result().checkpoints
        found += page
        if len(page) < _PAGE or (limit and len(found) >= limit):
            return found


def _print_table(checkpoints: list[Checkpoint]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not checkpoints:
        typer.echo("no checkpoints")
        return
    # Wide enough for any path, without lines between: a path has to stay whole to be copied.
    console = Console(width=_WIDTH, soft_wrap=True)
    table = Table("saved", "kind", "size", "expires", "path", box=None, pad_edge=False)
    for checkpoint in checkpoints:
        table.add_row(
            f"{checkpoint.time.astimezone():%Y-%m-%d %H:%M}",
            checkpoint.checkpoint_type,
            "" if checkpoint.size_bytes is None else f"{checkpoint.size_bytes / 1e6:.1f} MB",
            "never" if checkpoint.expires_at is None else f"{checkpoint.expires_at.astimezone():%Y-%m-%d %H:%M}",
            checkpoint.tinker_path,
        )
    console.print(table, crop=False)
