"""`tinsmith key`: the API keys of a service on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tinsmith.server.store.keys import KeyStore

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Create, list and revoke a service's API keys.")

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="The service's data folder. Default: TINSMITH_HOME."),
]


def _with_keys(data_dir: Path | None, work: Callable[[KeyStore], Coroutine[None, None, None]]) -> None:
    from tinsmith.server.store.db.database import Database, default_url
    from tinsmith.server.store.keys import KeyStore
    from tinsmith.settings import get_settings

    settings = get_settings()
    root = (data_dir or settings.home).resolve()
    root.mkdir(parents=True, exist_ok=True)
    # Straight into the database, whether or not the service runs: keys are needed before the first start, too.
    db = Database(settings.database_url or default_url(root), settings.durability)
    try:
        db.migrate(root / "migrate.lock")
        asyncio.run(work(KeyStore(db)))
    finally:
        db.close()


@app.command()
def create(
    owner: Annotated[str, typer.Argument(help="Whose key it is; keys of one owner see the same runs.")],
    name: Annotated[str, typer.Option(help="A note to tell keys apart.")] = "",
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it; it cannot be shown again."""

    async def work(keys: KeyStore) -> None:
        typer.echo(await keys.create(owner, name))

    _with_keys(data_dir, work)


@app.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """List the keys, without the keys themselves."""

    async def work(keys: KeyStore) -> None:
        for key in await keys.all():
            made = datetime.fromtimestamp(key.created_at).isoformat(sep=" ", timespec="seconds")
            state = "revoked" if key.revoked_at is not None else "valid"
            typer.echo(f"{key.id:>4}  tml-...{key.shown}  {state:<8} {made}  {key.owner}  {key.name}")

    _with_keys(data_dir, work)


@app.command()
def revoke(
    key_id: Annotated[int, typer.Argument(metavar="ID", help="The number that `tinsmith key list` shows.")],
    data_dir: DataDir = None,
) -> None:
    """End a key; a running service refuses it within seconds."""

    async def work(keys: KeyStore) -> None:
        await keys.revoke(key_id)
        typer.echo(f"key {key_id} is revoked")

    _with_keys(data_dir, work)
