"""`tinsmith key`: the API keys of a service on this machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinsmith.cli.catalogue.opening import has_database, not_a_data_folder
from tinsmith.cli.catalogue.options import Json
from tinsmith.cli.catalogue.telling import age, tell_table
from tinsmith.types.errors import invalid

if TYPE_CHECKING:
    from tinsmith.server.store.keys import Key, KeyStore
    from tinsmith.settings import Settings

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Create, list and revoke a service's API keys.")

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", metavar="DIR", help="The service's data folder. Default: TINSMITH_HOME.", show_default=False
    ),
]


def _place(data_dir: Path | None) -> tuple[Settings, Path]:
    from tinsmith.types.environment import read_settings

    settings = read_settings()
    return settings, (data_dir or settings.home).expanduser().resolve()


def _with_keys(settings: Settings, root: Path, work: Callable[[KeyStore], Coroutine[None, None, None]]) -> None:
    from tinsmith.server.store.db.database import Database, default_url
    from tinsmith.server.store.keys import KeyStore

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
    weight: Annotated[
        float,
        typer.Option(
            help="How much of the engine's time its owner gets beside others, 0.01 to 100: with 2 twice as much as "
            "with 1. Of several keys of one owner the largest counts."
        ),
    ] = 1.0,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it; it cannot be shown again."""
    from tinsmith.server.store.keys import check_weight

    check_weight(weight)

    async def work(keys: KeyStore) -> None:
        heavier = [key for key in await keys.all() if key.owner == owner and key.revoked_at is None]
        typer.echo(await keys.create(owner, name, weight=weight))
        most = max((key.weight for key in heavier), default=weight)
        if most > weight:
            typer.echo(f"{owner} still weighs {most:g}, which another key of this owner has", err=True)

    settings, root = _place(data_dir)
    # A folder that is yet to be filled is made; one in a folder that is not there is a slip of the keyboard.
    if data_dir is not None and not root.parent.is_dir():
        raise invalid("--data-dir", str(data_dir), f"a folder in one that exists; {root.parent} does not")
    root.mkdir(parents=True, exist_ok=True)
    _with_keys(settings, root, work)


@app.command("list")
def list_keys(as_json: Json = False, data_dir: DataDir = None) -> None:
    """List the keys, without the keys themselves."""
    found: list[Key] = []

    async def work(keys: KeyStore) -> None:
        found.extend(await keys.all())

    settings, root = _place(data_dir)
    if has_database(settings, root):
        _with_keys(settings, root, work)
    elif data_dir is not None:
        raise not_a_data_folder(data_dir)
    if as_json:
        typer.echo(json.dumps([asdict(key) for key in found], indent=1))
    elif found:
        tell_table([_row(key) for key in found])
    else:
        typer.echo(f"no keys in {root}; the first start of `tinsmith serve` makes one, or `tinsmith key create OWNER`")


def _row(key: Key) -> dict[str, str]:
    return {
        "id": str(key.id),
        "key": f"tml-...{key.shown}",
        "state": "revoked" if key.revoked_at is not None else "valid",
        "made": age(datetime.fromtimestamp(key.created_at, UTC)),
        "owner": key.owner,
        "weight": f"{key.weight:g}",
        "name": key.name,
    }


@app.command()
def revoke(
    key_id: Annotated[int, typer.Argument(metavar="ID", help="The number that `tinsmith key list` shows.")],
    data_dir: DataDir = None,
) -> None:
    """End a key; a running service refuses it within seconds."""

    async def work(keys: KeyStore) -> None:
        await keys.revoke(key_id)
        typer.echo(f"key {key_id} is revoked")

    settings, root = _place(data_dir)
    if not has_database(settings, root):
        raise not_a_data_folder(data_dir or root)
    _with_keys(settings, root, work)
