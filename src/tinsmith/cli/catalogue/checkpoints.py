"""`tinsmith checkpoint list`, `info`, `publish`, `unpublish`, `set-ttl` and `delete`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinsmith.cli.catalogue.opening import open_catalogue
from tinsmith.cli.catalogue.options import BaseUrl, DataDir, Json, Limit, Path_, Yes, parsed, seconds_of
from tinsmith.cli.catalogue.telling import (
    age,
    checkpoint_row,
    expiry,
    moment,
    number,
    size,
    tell_facts,
    tell_json,
    tell_rest,
    tell_table,
)
from tinsmith.types.errors import UserError

if TYPE_CHECKING:
    from tinsmith.types.responses import Checkpoint, WeightsInfoResponse


def list_checkpoints(
    run: Annotated[
        str | None, typer.Option("--run", "--run-id", metavar="RUN", help="Only those of one training run.")
    ] = None,
    limit: Limit = 20,
    as_json: Json = False,
    base_url: BaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """List saved checkpoints, newest first.

    `weights/` are training states, to go on from; `sampler_weights/` are to chat with and to export.
    """
    with open_catalogue(base_url, data_dir) as catalogue:
        found = catalogue.checkpoints(run, limit)
        if as_json:
            tell_json(found.checkpoints)
            return
        if not found.checkpoints:
            typer.echo(f"no checkpoints in {catalogue.where}")
            return
    tell_table([checkpoint_row(checkpoint) for checkpoint in found.checkpoints])
    tell_rest(len(found.checkpoints), found.total)


def info(path: Path_, as_json: Json = False, base_url: BaseUrl = None, data_dir: DataDir = None) -> None:
    """Show what is known of one checkpoint."""
    with open_catalogue(base_url, data_dir) as catalogue:
        checkpoint, shape = catalogue.checkpoint(parsed(path)), catalogue.shape(parsed(path))
    if as_json:
        # Of another service's checkpoint the second answer knows more; where both know something, they agree.
        typer.echo(shape.model_copy(update=checkpoint.model_dump(exclude_none=True)).model_dump_json())
        return
    tell_facts(_facts(checkpoint, shape))


def _facts(checkpoint: Checkpoint, shape: WeightsInfoResponse) -> dict[str, str]:
    path = parsed(checkpoint.tinker_path)
    noted = checkpoint.user_metadata or {}
    acts_on = [part for part in ("attn", "mlp", "unembed") if getattr(shape, f"train_{part}")]
    expires = checkpoint.expires_at
    return {
        "checkpoint": checkpoint.tinker_path,
        "kind": "training state" if path.kind == "weights" else "weights for sampling",
        "base model": shape.base_model,
        "rank": number(shape.lora_rank),
        "acts on": ", ".join(acts_on),
        "recipe": noted.get("recipe", ""),
        "step": noted.get("step", ""),
        "size": size(checkpoint.size_bytes),
        "saved": f"{moment(checkpoint.time)}, {age(checkpoint.time)}",
        "expires": "never" if expires is None else f"{moment(expires)}, {expiry(expires)}",
        "readers": "all keys of the service" if checkpoint.public else "its owner",
        "run": path.run_id,
        **{name: value for name, value in noted.items() if name not in ("recipe", "step")},
    }


def publish(path: Path_, base_url: BaseUrl = None, data_dir: DataDir = None) -> None:
    """Let every key of the service read a checkpoint."""
    with open_catalogue(base_url, data_dir) as catalogue:
        catalogue.set_public(parsed(path), True)
    typer.echo(f"{path}: every key of the service may read it")


def unpublish(path: Path_, base_url: BaseUrl = None, data_dir: DataDir = None) -> None:
    """Let only its owner read a checkpoint again."""
    with open_catalogue(base_url, data_dir) as catalogue:
        catalogue.set_public(parsed(path), False)
    typer.echo(f"{path}: only its owner may read it")


def set_ttl(
    path: Path_,
    ttl: Annotated[str, typer.Option(metavar="TIME", help="From now on: 12h, 7d, 2w, seconds, or never.")],
    base_url: BaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Set how long a checkpoint is kept."""
    with open_catalogue(base_url, data_dir) as catalogue:
        catalogue.set_ttl(parsed(path), seconds_of(ttl))
        expires = catalogue.checkpoint(parsed(path)).expires_at
    typer.echo(f"{path}: kept for ever" if expires is None else f"{path}: expires {moment(expires)}")


def delete(
    paths: Annotated[list[str], typer.Argument(metavar="tinker://...", help="The checkpoints' addresses.")],
    yes: Yes = False,
    base_url: BaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Delete checkpoints and their files; asks before it does.

    What was made from them before, a training run or a sampler that is open, keeps working.
    """
    with open_catalogue(base_url, data_dir) as catalogue:
        # All are looked up before the first is deleted: a mistyped address should not be found half-way.
        found = [catalogue.checkpoint(parsed(path)) for path in dict.fromkeys(paths)]
        if not yes:
            tell_table([checkpoint_row(checkpoint) for checkpoint in found])
            _ask(f"delete {'this checkpoint' if len(found) == 1 else f'these {len(found)} checkpoints'}?")
        for checkpoint in found:
            catalogue.delete(parsed(checkpoint.tinker_path))
            typer.echo(f"deleted {checkpoint.tinker_path}")


def _ask(question: str) -> None:
    try:
        agreed = typer.confirm(question)
    except typer.Abort:
        typer.echo()
        agreed = False
    if not agreed:
        raise UserError("nothing was deleted; answer y, or give --yes")


# In the order of the help; `cli/checkpoint.py` adds those that move files.
COMMANDS: dict[str, Callable[..., Any]] = {
    "list": list_checkpoints,
    "info": info,
    "publish": publish,
    "unpublish": unpublish,
    "set-ttl": set_ttl,
    "delete": delete,
}
