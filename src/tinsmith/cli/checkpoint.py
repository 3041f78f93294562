"""`tinsmith checkpoint`: the commands on the catalogue, and those that fetch checkpoints and bring adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinsmith.cli.catalogue import checkpoints
from tinsmith.cli.options import BaseUrl
from tinsmith.types.errors import UserError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List checkpoints, fetch and import them.")
for _name, _command in checkpoints.COMMANDS.items():
    app.command(_name)(_command)


@app.command()
def export(
    source: Annotated[
        str, typer.Argument(metavar="tinker://...", help="A checkpoint; with --merged also a PEFT folder.")
    ],
    folder: Annotated[Path, typer.Argument(help="Where to put it: an empty folder, or one that does not exist.")],
    merged: Annotated[bool, typer.Option("--merged", help="The whole model: adapter and base in one.")] = False,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|HUB_ID", help="With --merged: the base model. Default: the adapter's.", show_default=False
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="DTYPE", help="With --merged: bf16, fp16, fp32 or fp64. Default: the base's.", show_default=False
        ),
    ] = None,
    base_url: BaseUrl = None,
) -> None:
    """Write a checkpoint as a plain PEFT folder, or with --merged as a whole model for transformers and vLLM.

    The PEFT folder holds adapter_model.safetensors and adapter_config.json, checked against the service's checksums,
    the base's tokenizer and a model card; what is printed says which of PEFT, vLLM and SGLang load it.
    A merged model is computed here, tensor by tensor, and needs the base model on this machine, not in memory.
    """
    # What reads and writes models is not imported for `--help`.
    from tinsmith.cli.export import export_adapter, export_whole

    if merged:
        export_whole(source, folder, base, dtype, base_url)
        return
    # Refused, not ignored: whoever gives a dtype expects weights of it.
    for option, value in (("--base", base), ("--dtype", dtype)):
        if value is not None:
            raise UserError(f"{option}: got {value!r}, expected it with --merged only")
    export_adapter(source, folder, base_url)


@app.command("import")
def import_checkpoint(
    folder: Annotated[Path, typer.Argument(help="A PEFT folder, made by PEFT, TRL or `export`.")],
    base_model: Annotated[
        str, typer.Option(metavar="NAME", help="The base model that it was made for, as the service calls it.")
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the checkpoint.")] = "imported",
    base_url: BaseUrl = None,
) -> None:
    """Bring a PEFT adapter to the service, to train on from it and to sample from it.

    Its scaling is folded into its weights; ranks below the largest are filled up. What a LoRA here cannot hold (DoRA,
    trained embeddings, biases, modules_to_save, routers) is refused by name.
    """
    import tinsmith

    client = tinsmith.RestClient(base_url=base_url)
    imported = client.import_checkpoint(folder, base_model=base_model, name=name).result()
    typer.echo(imported.state_path)
    typer.echo(imported.sampler_path)
    typer.echo(f'train on: service.create_training_client_from_state("{imported.state_path}")')
    typer.echo(f"recipes:  load_checkpoint_path={imported.state_path}")
    typer.echo(f"chat:     tinsmith chat {imported.sampler_path}")
