"""`tinsmith run list` and `info`: the training runs of a service, each an adapter on a base model."""

from __future__ import annotations

from typing import Annotated

import typer

from tinsmith.cli.catalogue.opening import open_catalogue
from tinsmith.cli.catalogue.options import BaseUrl, DataDir, Json, Limit
from tinsmith.cli.catalogue.telling import (
    age,
    checkpoint_row,
    moment,
    number,
    run_row,
    size,
    tell_facts,
    tell_json,
    tell_rest,
    tell_table,
)

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List training runs and look at one.")


@app.command("list")
def list_runs(limit: Limit = 20, as_json: Json = False, base_url: BaseUrl = None, data_dir: DataDir = None) -> None:
    """List training runs, the one used last first."""
    with open_catalogue(base_url, data_dir) as catalogue:
        found = catalogue.runs(limit)
        if as_json:
            tell_json(found.runs)
            return
        if not found.runs:
            typer.echo(f"no training runs in {catalogue.where}")
            return
    tell_table([run_row(run) for run in found.runs])
    tell_rest(len(found.runs), found.total)


@app.command()
def info(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Its name, as `tinsmith run list` shows it.")],
    as_json: Json = False,
    base_url: BaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Show what is known of one training run, and its checkpoints."""
    with open_catalogue(base_url, data_dir) as catalogue:
        run = catalogue.run(run_id)
        if as_json:
            typer.echo(run.model_dump_json())
            return
        saved = catalogue.checkpoints(run_id, 0).checkpoints
    noted = run.user_metadata or {}
    tell_facts(
        {
            "run": run.training_run_id,
            "base model": run.base_model,
            "rank": number(run.lora_rank),
            **noted,
            "used": f"{moment(run.last_request_time)}, {age(run.last_request_time)}",
            "owner": run.model_owner,
            "state": "corrupted: a file of its journal is damaged" if run.corrupted else "",
            "checkpoints": f"{len(saved)}, {size(sum(one.size_bytes or 0 for one in saved))}" if saved else "none",
        }
    )
    if saved:
        typer.echo()
        tell_table([checkpoint_row(checkpoint) for checkpoint in saved])
