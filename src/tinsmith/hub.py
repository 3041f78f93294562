"""Files of the Hugging Face hub, with an answer at once where it cannot be reached.

`huggingface_hub` tries a name that does not resolve six times, half a minute in all, before it looks into its cache.
Here one plain request comes first; `HF_HUB_OFFLINE=1` spares that one too, `HF_HUB_ETAG_TIMEOUT` (10) is its limit in
seconds.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

logger = logging.getLogger("tinsmith")

# For so long, seconds, a hub that did not answer is not asked again.
_REST_S = 60.0
# Held while the one request is out: a dozen threads that want files wait for one answer, not for a dozen timeouts.
_lock = threading.Lock()
_failed: tuple[float, str] | None = None


def fetch(repository: str, file: str) -> Path | None:
    """Return a file of a hub repository: the newest where the hub answers, else the one in the local cache.

    Args:
        repository: `owner/name`.
        file: its path in there.

    Returns:
        Where it lies on this machine; None: the repository has no such file.

    Raises:
        OSError: the hub refuses it (no such repository, no access), or does not answer and the cache has no copy.
        ValueError: no name that a repository can have.
    """
    from huggingface_hub import constants, hf_hub_download  # pyright: ignore[reportUnknownVariableType]
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repository)
    # Asked first, because `hf_hub_download` would find out by itself only after half a minute of retries.
    reason = unreachable()
    if reason is None:
        logger.info("looking for %s of %s on the hub (HF_HUB_OFFLINE=1: only in its cache)", file, repository)
    try:
        return Path(hf_hub_download(repository, file, local_files_only=reason is not None))
    except LocalEntryNotFoundError as error:
        if reason is None:
            raise
        raise OSError(f"{constants.ENDPOINT} {reason}, and the local cache has no {file} of {repository}") from error
    except EntryNotFoundError:
        return None


def list_files(repository: str, folder: str) -> list[str]:
    """Return the names of the files in a folder of a hub repository; of the local cache where the hub does not answer.

    Raises:
        OSError: the hub refuses it.
    """
    from huggingface_hub import HfApi, snapshot_download  # pyright: ignore[reportUnknownVariableType]
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        if unreachable() is None:
            return [entry.path.rpartition("/")[2] for entry in HfApi().list_repo_tree(repository, folder)]
        cached = Path(snapshot_download(repository, local_files_only=True)) / folder
        return [file.name for file in cached.iterdir()] if cached.is_dir() else []
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return []


def unreachable() -> str | None:
    """Return why the hub cannot be asked; None where it can."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "is not asked (HF_HUB_OFFLINE=1)"
    global _failed
    with _lock:
        if _failed is not None and time.monotonic() - _failed[0] < _REST_S:
            return _failed[1]
        reason = _probe()
        _failed = None if reason is None else (time.monotonic(), reason)
        return reason


def _probe() -> str | None:
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        # Any answer will do, a refusal too: it shows that somebody is there.
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (httpx.HTTPError, OSError) as error:
        return f"cannot be reached ({error or type(error).__name__})"
    return None
