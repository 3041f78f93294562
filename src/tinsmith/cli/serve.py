"""`tinsmith serve`: the service in its own process, its engines in a child process."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from tinsmith import logs
from tinsmith.settings import Settings
from tinsmith.types.errors import StartupError
from tinsmith.types.facts.lineup import EMBEDDED_MODEL

if TYPE_CHECKING:
    from tinsmith.server.http.listener import Listener

app = typer.Typer(add_completion=False)
log = logging.getLogger("tinsmith.server")


@app.command()
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.", show_default=False)
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 picks a free one. Default: 8000.", show_default=False)
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Journal, checkpoints, keys. Default: TINSMITH_HOME.", show_default=False),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER_OR_HUB_ID", help=f"A model to serve; repeatable. Default: {EMBEDDED_MODEL}."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N. Default: cuda if there is one.", show_default=False)
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float64. Default: by device.", show_default=False)
    ] = None,
) -> None:
    """Serve models to Tinsmith and Tinker clients until Ctrl-C."""
    given = {"host": host, "port": port, "home": data_dir, "device": device, "dtype": dtype}
    try:
        settings = _settings({name: value for name, value in given.items() if value is not None})
        asyncio.run(_serve(settings, model or [EMBEDDED_MODEL]))
    except (StartupError, OSError) as error:
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from None


def _settings(given: dict[str, Any]) -> Settings:
    from tinsmith.server.faults import describe

    try:
        return Settings(**given)
    except ValidationError as error:
        raise StartupError(describe(error)) from error


async def _serve(settings: Settings, specs: list[str]) -> None:
    from tinsmith.cluster.child import ChildLink
    from tinsmith.cluster.model_sources import ModelSpec, resolve_models
    from tinsmith.server.http.listener import Listener
    from tinsmith.server.service import Service
    from tinsmith.server.store.catalog import BaseModels
    from tinsmith.server.store.keys import check_token

    logs.configure("api")
    # Before the models, which may load for minutes: a key that cannot be one is a mistake of the command line.
    if settings.api_key is not None:
        check_token(settings.api_key)
    folders = await asyncio.to_thread(resolve_models, specs)
    log.info("starting the engine with %s", ", ".join(folders))
    link = ChildLink([ModelSpec(name, str(folder)) for name, folder in folders.items()], settings)
    service = Service(settings, link, BaseModels(folders))
    await service.start()
    try:
        key = await service.keys.ensure_first(settings.api_key)
        known = settings.api_key is None or await service.keys.owner_of(settings.api_key) is not None
        listener = Listener(service, settings.host, settings.port)
        answering = asyncio.create_task(listener.run())
        ready = asyncio.create_task(service.wait_ready())
        # Listening begins while the models load, so that `/healthz` can say so; Ctrl-C may come before they are there.
        await asyncio.wait({answering, ready}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            try:
                ready.result()
                _greet(listener, sorted(folders), service.core.data_folder.root, key, known)
            except StartupError:
                listener.stop()
                await answering
                raise
        ready.cancel()
        await answering
    finally:
        await service.stop()


def _greet(listener: Listener, models: list[str], data_dir: Path, key: str | None, known: bool) -> None:
    """Say where the service is and how to reach it; a new key is shown this once."""
    lines = [
        f"Tinsmith listens on {listener.url}",
        f"models: {', '.join(models)}",
        f"data:   {data_dir}",
        "",
        f"export TINSMITH_BASE_URL={listener.url}",
    ]
    if key is not None:
        lines += [f"export TINSMITH_API_KEY={key}", "", "The key is shown this once; only its hash is kept."]
    else:
        lines += ["export TINSMITH_API_KEY=...   # the key shown at the first start, or: tinsmith key create OWNER"]
    if not known:
        lines += ["", "TINSMITH_API_KEY is none of this service's keys; it counts only at the first start."]
    typer.echo("\n".join(lines))


if __name__ == "__main__":
    app()
