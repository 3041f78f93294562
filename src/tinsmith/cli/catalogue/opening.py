"""Which catalogue a command speaks to: that of a service by URL, or the database of a data folder on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tinsmith.types.errors import UserError, invalid

if TYPE_CHECKING:
    from tinsmith.settings import Settings
    from tinsmith.types.names.paths import CheckpointPath
    from tinsmith.types.responses import Checkpoint, TrainingRun, WeightsInfoResponse


class Found(NamedTuple):
    """A part of a list of checkpoints: those that are shown, and how many there are."""

    checkpoints: Sequence[Checkpoint]
    total: int


class FoundRuns(NamedTuple):
    """A part of a list of training runs: those that are shown, and how many there are."""

    runs: Sequence[TrainingRun]
    total: int


class Catalogue(Protocol):
    """What every catalogue can do; `UserError` or `NotFoundError` where there is no such thing of one's own."""

    where: str

    def checkpoints(self, run_id: str | None, limit: int) -> Found:
        """Return checkpoints, newest first; of one run or of all, at most `limit`, 0 for all."""
        ...

    def checkpoint(self, path: CheckpointPath) -> Checkpoint:
        """Return one checkpoint."""
        ...

    def shape(self, path: CheckpointPath) -> WeightsInfoResponse:
        """Return what a checkpoint's adapter acts on."""
        ...

    def delete(self, path: CheckpointPath) -> None:
        """Delete a checkpoint and its files."""
        ...

    def set_public(self, path: CheckpointPath, public: bool) -> None:
        """Let every key of the service read a checkpoint, or its owner's alone."""
        ...

    def set_ttl(self, path: CheckpointPath, seconds: int | None) -> None:
        """Set how long a checkpoint is kept from now on; None is for ever."""
        ...

    def runs(self, limit: int) -> FoundRuns:
        """Return training runs, the one used last first; at most `limit`, 0 for all."""
        ...

    def run(self, run_id: str) -> TrainingRun:
        """Return one training run."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


@contextmanager
def open_catalogue(base_url: str | None, data_dir: Path | None) -> Iterator[Catalogue]:
    """Open the catalogue of a service, or, where none is named, that of the data folder; no engine is started.

    Raises:
        UserError: both are named, or the folder is none of a service.
        StartupError: the database cannot be used.
    """
    if base_url is not None and data_dir is not None:
        raise invalid("--data-dir", str(data_dir), "it without --base-url: a service has its own folder")
    # Here and not at the top, so that `--help` need not wait for it.
    from tinsmith.types.environment import read_settings

    settings = read_settings()
    url = base_url if base_url is not None else settings.base_url
    catalogue = _remote(url) if url and data_dir is None else _local(settings, data_dir)
    try:
        yield catalogue
    finally:
        catalogue.close()


def _remote(url: str) -> Catalogue:
    from tinsmith.cli.catalogue.remote import RemoteCatalogue

    return RemoteCatalogue(url)


def _local(settings: Settings, data_dir: Path | None) -> Catalogue:
    root = (data_dir or settings.home).expanduser().resolve()
    if not has_database(settings, root):
        if data_dir is not None:
            raise not_a_data_folder(data_dir)
        return NoCatalogue(root)
    from tinsmith.cli.catalogue.local import LocalCatalogue

    return LocalCatalogue(settings, root)


def has_database(settings: Settings, root: Path) -> bool:
    """Return whether a service has been here: looked up, so that reading makes no folder."""
    return settings.database_url is not None or (root / "tinsmith.db").exists()


def not_a_data_folder(data_dir: Path) -> UserError:
    """Make the error of a `--data-dir` that no service has used."""
    return invalid("--data-dir", str(data_dir), "the data folder of a service; this one holds no tinsmith.db")


class NoCatalogue:
    """That of a machine on which nothing was ever trained: lists are empty, and nothing can be found."""

    def __init__(self, root: Path) -> None:
        self.where = str(root)

    def checkpoints(self, run_id: str | None, limit: int) -> Found:
        """Return no checkpoints."""
        return Found([], 0)

    def runs(self, limit: int) -> FoundRuns:
        """Return no runs."""
        return FoundRuns([], 0)

    def checkpoint(self, path: CheckpointPath) -> Checkpoint:
        """Refuse: there is none."""
        raise invalid("checkpoint", str(path), f"one of {self.where}, where nothing was ever saved", status=404)

    def shape(self, path: CheckpointPath) -> WeightsInfoResponse:
        """Refuse: there is none."""
        raise invalid("checkpoint", str(path), f"one of {self.where}, where nothing was ever saved", status=404)

    def delete(self, path: CheckpointPath) -> None:
        """Refuse: there is none."""
        self.checkpoint(path)

    def set_public(self, path: CheckpointPath, public: bool) -> None:
        """Refuse: there is none."""
        self.checkpoint(path)

    def set_ttl(self, path: CheckpointPath, seconds: int | None) -> None:
        """Refuse: there is none."""
        self.checkpoint(path)

    def run(self, run_id: str) -> TrainingRun:
        """Refuse: there is none."""
        raise invalid("run", run_id, f"one of {self.where}, where nothing was ever trained", status=404)

    def close(self) -> None:
        """Do nothing: nothing was opened."""
