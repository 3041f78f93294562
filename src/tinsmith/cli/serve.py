"""`tinsmith serve`: the service in its own process, its engines in a child process."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from tinsmith import logs
from tinsmith.settings import Settings
from tinsmith.types.errors import StartupError, UserError
from tinsmith.types.facts.lineup import EMBEDDED_MODEL
from tinsmith.types.names.devices import DEVICE_WORDS, DTYPE_WORDS, check_device_name, check_dtype_name

if TYPE_CHECKING:
    from tinsmith.server.http.listener import Listener

app = typer.Typer(add_completion=False)
log = logging.getLogger("tinsmith.server")

# How long one thread may keep the interpreter from another, seconds.
_SWITCH_S = 0.0005


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
        str | None, typer.Option(help=f"{DEVICE_WORDS}. Default: cuda if there is one.", show_default=False)
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help=f"{DTYPE_WORDS}. Default: float32 on a CPU, bfloat16 on CUDA.", show_default=False),
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
    """Return the settings, checked as far as that goes before anything is started; faults name the option."""
    from tinsmith.server.faults import describe

    def called(field: str) -> str:
        option = "data-dir" if field == "home" else field.replace("_", "-")
        return f"--{option}" if field in given else field

    try:
        settings = Settings(**given)
    except ValidationError as error:
        field, _, rest = describe(error).partition(":")
        raise StartupError(f"{called(field)}:{rest}") from error
    try:
        check_device_name(called("device"), settings.device)
        check_dtype_name(called("dtype"), settings.dtype)
    except UserError as error:
        raise StartupError(error.message) from error
    _check_data_dir(called("home"), settings.home)
    return settings


def _check_data_dir(field: str, folder: Path) -> None:
    """Check that a data folder is one, or would be a new one in a folder that is there."""
    # The default home is made with all that it stands in; a path that somebody typed is more likely mistyped.
    if field.startswith("--") and not folder.absolute().parent.is_dir():
        raise StartupError(
            f"{field}: got {str(folder)!r}, expected a data folder, or a new one in a folder that exists: "
            f"{folder.absolute().parent} does not"
        )
    if folder.exists() and not folder.is_dir():
        raise StartupError(f"{field}: got {str(folder)!r}, which is no folder, expected a data folder")


async def _serve(settings: Settings, specs: list[str]) -> None:
    from tinsmith.cluster.child import ChildLink
    from tinsmith.cluster.model_sources import ModelSpec, resolve_models
    from tinsmith.server.http.connections import raise_descriptors
    from tinsmith.server.http.listener import Listener, bind
    from tinsmith.server.service import Service
    from tinsmith.server.store.catalog import BaseModels
    from tinsmith.server.store.keys import check_token

    logs.configure("api")
    raise_descriptors()
    # Before the models, which may load for minutes: a key that cannot be one is a mistake of the command line.
    if settings.api_key is not None:
        check_token(settings.api_key)
    listening = bind(settings.host, settings.port)
    if (warning := _in_the_open(listening.getsockname()[0])) is not None:
        typer.secho(warning, err=True, fg=typer.colors.YELLOW)
    folders = await asyncio.to_thread(resolve_models, specs)
    new = not settings.home.exists()
    # Whatever it and the engine write is nobody else's to read: databases and blobs hold what all tenants sent.
    os.umask(0o077)
    # The thread that writes the journal takes the interpreter whenever the loop's makes a system call, and would keep
    # it for 5 ms each time; requests make a handful of calls.
    sys.setswitchinterval(_SWITCH_S)
    log.info("starting the engine with %s", ", ".join(folders))
    link = ChildLink([ModelSpec(name, str(folder)) for name, folder in folders.items()], settings)
    service = Service(settings, link, BaseModels(folders))
    await service.start()
    try:
        key = await service.keys.ensure_first(settings.api_key)
        known = settings.api_key is None or await service.keys.owner_of(settings.api_key) is not None
        listener = Listener(service, settings.host, listening)
        # What is there by now stays: looking through it for garbage would stop everybody for a tenth of a second.
        gc.freeze()
        answering = asyncio.create_task(listener.run())
        ready = asyncio.create_task(service.wait_ready())
        ends = {answering, service.lost} if service.lost is not None else {answering}
        # Listening begins while the models load, so that `/healthz` can say so; Ctrl-C may come before they are there.
        await asyncio.wait({*ends, ready}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            try:
                ready.result()
                data = f"{service.core.data_folder.root}{' (new)' if new else ''}"
                _greet(listener, sorted(folders), data, key, known)
            except StartupError:
                listener.stop()
                await answering
                raise
        ready.cancel()
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        listener.stop()
        await answering
        if service.lost is not None and service.lost.done():
            raise StartupError(service.lost.result())
    finally:
        await service.stop()


def _in_the_open(address: str) -> str | None:
    """Return what to say of an address that other machines reach, None for one of this machine alone."""
    if ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return None
    return (
        f"warning: {address} can be reached from other machines, and the service speaks plain HTTP: keys and data "
        "cross the network unencrypted. Put a proxy with TLS in front of it, or listen on 127.0.0.1."
    )


def _greet(listener: Listener, models: list[str], data: str, key: str | None, known: bool) -> None:
    """Say where the service is and how to reach it; a new key is shown this once."""
    lines = [
        f"Tinsmith listens on {listener.url}",
        f"models: {', '.join(models)}",
        f"data:   {data}",
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
