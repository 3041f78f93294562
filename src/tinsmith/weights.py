"""Weights that leave Tinsmith whole: an adapter merged into its base model, as a plain `transformers` checkpoint.

`from tinsmith.weights import export_merged`; needs `tinsmith[server]`. Adapters alone go out and in by
`RestClient.download_checkpoint` and `RestClient.import_checkpoint`, which need nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from tinsmith.types.errors import StartupError, UserError, invalid
from tinsmith.types.names.paths import SCHEME


def export_merged(
    source: str | Path,
    folder: str | Path,
    *,
    base: str | Path | None = None,
    dtype: str | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a base model with an adapter merged into it: W + scale·B·A in the place of every weight that it adapts.

    The base is read on this machine and written tensor by tensor, so that it need not fit into memory. Tokenizer, chat
    template and generation config come along. A base whose output projection is the input embedding gets one of its own
    where the adapter acts on it.

    Args:
        source: a checkpoint (`tinker://...`), or a PEFT folder on this machine.
        folder: appears whole or not at all; must be empty or absent.
        base: folder or hub id of the base model; None takes the one that the adapter names, by `TINSMITH_MODELS`.
        dtype: `bf16`, `fp16`, `fp32` or `fp64`; None keeps the base's. Sums are made in float32 or wider, rounded once.
        base_url: the service that has the checkpoint; None takes the environment's, else the embedded one.
        api_key: of that service.
        progress: called with the bytes written and the bytes in all.

    Returns:
        `folder`.

    Raises:
        UserError: the folder holds something, there is no base, the adapter is none or does not fit it, or the disk has
            no room for the result.
        TinsmithError: the service does not give the checkpoint.
    """
    from tinsmith.engine.checkpoints.merged import check_output, merge

    # First, and before the download: a folder that is not empty should not cost the user a wait.
    target = check_output(Path(folder), dtype)
    if not str(source).startswith(SCHEME):
        adapter = Path(source)
        return merge(adapter, _base_of(adapter, base), target, dtype, progress)
    from tinsmith.client.checkpoints.rest_client import RestClient

    # The adapter is needed for the merge alone; its PEFT folder is there for the asking (`download_checkpoint`).
    with tempfile.TemporaryDirectory(prefix="tinsmith-adapter-") as temporary:
        client = RestClient(base_url=base_url, api_key=api_key)
        adapter = client.download_checkpoint(str(source), Path(temporary) / "adapter").result()
        return merge(adapter, _base_of(adapter, base), target, dtype, progress)


def _base_of(adapter: Path, base: str | Path | None) -> Path:
    """Find the base model on this machine, or fetch it from the hub."""
    from tinsmith.cluster.model_sources import resolve
    from tinsmith.engine.checkpoints.merged import read_adapter_config
    from tinsmith.types.environment import read_settings

    name = str(base) if base is not None else read_adapter_config(adapter).base_model
    if not name:
        raise invalid("base", None, "a folder or hub id, because the adapter names no base model")
    try:
        return resolve(read_settings().models.get(name, name), "base")
    except StartupError as error:
        # Whoever gave no base cannot know where the name in the message comes from.
        hint = "" if base is not None else "; the adapter names this base model: say where it is here, as base"
        raise UserError(f"{error}{hint}") from error
