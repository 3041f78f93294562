"""What `tinsmith checkpoint export` writes beside the weights, and what it says about them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tinsmith.model_files.reading import read_object
from tinsmith.types.errors import TinsmithError, UserError
from tinsmith.types.names.checkpoint_files import ADAPTER_CONFIG
from tinsmith.types.names.paths import SCHEME

if TYPE_CHECKING:
    from tinsmith.client.tokenizer.tokenizer import Tokenizer

CARD = "README.md"


def export_adapter(source: str, folder: Path, base_url: str | None) -> None:
    """Fetch a PEFT folder, put tokenizer and model card beside it, and say who takes it."""
    import tinsmith
    from tinsmith.adapter_files.model_card import adapter_card
    from tinsmith.adapter_files.servers import servers_of

    written = tinsmith.RestClient(base_url=base_url).download_checkpoint(source, folder).result()
    config = read_object("adapter", written / ADAPTER_CONFIG)
    base = str(config.get("base_model_name_or_path") or "")
    missing = _add_tokenizer(written, base)
    (written / CARD).write_text(adapter_card(written.name, source, config), encoding="utf-8")
    tell_files(written)
    if missing is not None:
        typer.echo(f"no tokenizer files: {missing}", err=True)
    servers = servers_of(config, str(written))
    _tell((server.name, server.how if server.takes else f"no: {server.how}") for server in servers)
    _tell([("merged", f"tinsmith checkpoint export {written} NEW_FOLDER --merged --base {base or 'BASE'}")])


def export_whole(source: str, folder: Path, base: str | None, dtype: str | None, base_url: str | None) -> None:
    """Write a merged model with its card, and say how it is loaded."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from tinsmith.adapter_files.model_card import merged_card
    from tinsmith.weights import export_merged

    # On standard error, so that standard output holds the result alone.
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("merging", total=None)
        written = export_merged(
            source,
            folder,
            base=base,
            dtype=dtype,
            base_url=base_url,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    card = merged_card(written.name, source, base or _base_name(source, base_url))
    (written / CARD).write_text(card, encoding="utf-8")
    tell_files(written)
    _tell(
        [
            ("transformers", f'AutoModelForCausalLM.from_pretrained("{written}")'),
            ("vLLM", f"vllm serve {written}"),
            ("SGLang", f"python -m sglang.launch_server --model-path {written}"),
            ("tinsmith", f"tinsmith chat {written}"),
        ]
    )


def _base_name(source: str, base_url: str | None) -> str:
    """Return what an adapter calls its base."""
    import tinsmith

    if source.startswith(SCHEME):
        return tinsmith.RestClient(base_url=base_url).get_weights_info_by_tinker_path(source).result().base_model
    return str(read_object("adapter", Path(source) / ADAPTER_CONFIG).get("base_model_name_or_path") or "")


def _add_tokenizer(folder: Path, base: str) -> str | None:
    """Write the base's tokenizer into a folder; return why that cannot be done, None where it could."""
    from tinsmith import get_tokenizer

    if not base:
        return "the adapter names no base model"
    try:
        tokenizer = get_tokenizer(base)
    # An adapter without them is whole: whoever loads it has the base, and so its tokenizer.
    except (TinsmithError, UserError) as error:
        return str(error)
    _save_tokenizer(tokenizer, folder)
    return None


def _save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    config = {name: value for name, value in tokenizer.init_kwargs.items() if name != "chat_template"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if isinstance(tokenizer.chat_template, str):
        (folder / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")


def tell_files(folder: Path) -> None:
    """Say what a folder holds."""
    files = sorted(folder.iterdir())
    size = sum(file.stat().st_size for file in files)
    typer.echo(f"{folder}: {size / 1e6:.1f} MB: " + ", ".join(file.name for file in files))


def _tell(rows: Iterable[tuple[str, str]]) -> None:
    for name, how in rows:
        typer.echo(f"{name + ':':<13} {how}")
