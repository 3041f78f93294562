"""`tinsmith demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinsmith.cli.options import BaseUrl

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    eval_file: Annotated[
        Path | None,
        typer.Option("--eval", metavar="WORDS.txt", help="Test on your own words, one per line, letters a to z."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the words, the adapter and the order of the data.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps. Default: what it takes.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the results go. Default: runs/demo-DATE-TIME.", show_default=False),
    ] = None,
    base_url: BaseUrl = None,
) -> None:
    """Watch a small model learn pig latin, in about a minute.

    Measures the embedded model on words that it will never train on, trains a LoRA adapter with a progress bar, draws
    the loss curve, measures again, and saves the adapter: as a checkpoint to chat with and as a PEFT folder.
    """
    # The cookbook's packages need not be there for the other commands.
    from tinsmith.cookbook.demo import STEPS, run_demo

    run_demo(eval_file=eval_file, seed=seed, steps=steps or STEPS, base_url=base_url, folder=out)
