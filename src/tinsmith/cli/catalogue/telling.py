"""How checkpoints and runs are printed: tables for people, times and sizes in words, JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

    from tinsmith.types.responses import Checkpoint, TrainingRun

# Columns of a table, far more than any path has letters: a path has to stay whole to be copied.
_WIDTH = 600
_AGES = ((86_400, "day"), (3600, "hour"), (60, "minute"))
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def tell_json(items: Sequence[BaseModel]) -> None:
    """Print a list as JSON, one item a line."""
    typer.echo("[" + ",\n ".join(item.model_dump_json() for item in items) + "]")


def tell_table(rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows as a table without lines between; columns in which nothing stands are left out."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(row[name]) for name in columns))
    Console(width=_WIDTH, soft_wrap=True).print(table, crop=False)


def tell_facts(facts: Mapping[str, str]) -> None:
    """Print what is known of one thing, a line for each fact; those that are not known are left out."""
    known = {name: value for name, value in facts.items() if value}
    width = max(map(len, known))
    for name, value in known.items():
        typer.echo(f"{name:<{width}}  {value}")


def tell_rest(shown: int, total: int) -> None:
    """Say that there is more than what is shown, where there is."""
    if shown < total:
        typer.echo(f"{shown} of {total} are shown; --limit 0 shows all", err=True)


def checkpoint_row(checkpoint: Checkpoint) -> dict[str, str]:
    """Return what a table shows of a checkpoint."""
    return {
        "saved": age(checkpoint.time),
        "base model": checkpoint.base_model or "",
        "rank": number(checkpoint.lora_rank),
        "recipe": _noted(checkpoint, "recipe"),
        "step": _noted(checkpoint, "step"),
        "size": size(checkpoint.size_bytes),
        "expires": expiry(checkpoint.expires_at),
        "readers": "all keys" if checkpoint.public else "",
        "checkpoint": checkpoint.tinker_path,
    }


def run_row(run: TrainingRun) -> dict[str, str]:
    """Return what a table shows of a training run."""
    newest = newest_of(run)
    return {
        "used": age(run.last_request_time),
        "base model": run.base_model,
        "rank": number(run.lora_rank),
        "recipe": (run.user_metadata or {}).get("recipe", ""),
        "step": _noted(newest, "step") if newest is not None else "",
        "checkpoints": number(run.checkpoint_count),
        "size": size(run.size_bytes) if run.size_bytes else "",
        "expires": expiry(newest.expires_at) if newest is not None else "",
        "state": "corrupted" if run.corrupted else "",
        "run": run.training_run_id,
    }


def newest_of(run: TrainingRun) -> Checkpoint | None:
    """Return the newest checkpoint of a run, of either kind."""
    saved = [one for one in (run.last_checkpoint, run.last_sampler_checkpoint) if one is not None]
    return max(saved, key=lambda one: one.time, default=None)


def _noted(checkpoint: Checkpoint, name: str) -> str:
    return (checkpoint.user_metadata or {}).get(name, "")


def number(value: int | None) -> str:
    """Return a number, or nothing where it is not known."""
    return "" if value is None else str(value)


def size(count: int | None) -> str:
    """Return a number of bytes in words; nothing where it is not known."""
    if count is None:
        return ""
    for unit, name in _SIZES:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


def age(then: datetime) -> str:
    """Return how long ago a time is."""
    seconds = (datetime.now(UTC) - then).total_seconds()
    return "just now" if seconds < 60 else f"{_span(seconds)} ago"


def expiry(at: datetime | None) -> str:
    """Return how long something is still kept."""
    if at is None:
        return "never"
    seconds = (at - datetime.now(UTC)).total_seconds()
    return f"in {_span(seconds)}" if seconds >= 60 else "within a minute"


def moment(at: datetime) -> str:
    """Return a time by the clock of this machine."""
    return f"{at.astimezone():%Y-%m-%d %H:%M}"


def _span(seconds: float) -> str:
    for unit, name in _AGES:
        if seconds >= unit:
            count = int(seconds // unit)
            return f"{count} {name}{'s' * (count != 1)}"
    return "less than a minute"
