"""The catalogue of a service that is reached by URL: ours, or any other that speaks the protocol."""

from __future__ import annotations

import tinsmith
from tinsmith.cli.catalogue.opening import Found, FoundRuns
from tinsmith.types.errors import invalid
from tinsmith.types.names.paths import CheckpointPath
from tinsmith.types.responses import Checkpoint, TrainingRun, WeightsInfoResponse

_PAGE = 100


class RemoteCatalogue:
    """Checkpoints and runs of the owner of the key, asked over HTTP.

    Args:
        url: where the service is.

    Attributes:
        where: the service, in words.

    Raises:
        UserError: it is no URL.
    """

    def __init__(self, url: str) -> None:
        self.where = f"the service at {url}"
        self._rest = tinsmith.RestClient(base_url=url)

    def checkpoints(self, run_id: str | None, limit: int) -> Found:
        """Return checkpoints, newest first."""
        if run_id is not None:
            of_run = self._rest.list_checkpoints(run_id).result().checkpoints
            return Found(of_run[: limit or None], len(of_run))
        found: list[Checkpoint] = []
        # What is saved meanwhile moves the pages, and a path may then come twice: better than to miss one.
        while True:
            page = self._rest.list_user_checkpoints(limit=_PAGE, offset=len(found)).result()
            found += page.checkpoints
            if len(page.checkpoints) < _PAGE or (limit and len(found) >= limit):
                total = page.cursor.total_count if page.cursor is not None else len(found)
                return Found(found[: limit or None], total)

    def checkpoint(self, path: CheckpointPath) -> Checkpoint:
        """Return one checkpoint."""
        # The protocol has no question for a single one.
        for checkpoint in self._rest.list_checkpoints(path.run_id).result().checkpoints:
            if checkpoint.tinker_path == str(path):
                return checkpoint
        raise invalid("checkpoint", str(path), "a checkpoint of yours or a published one", status=404)

    def shape(self, path: CheckpointPath) -> WeightsInfoResponse:
        """Return what a checkpoint's adapter acts on."""
        return self._rest.get_weights_info_by_tinker_path(str(path)).result()

    def delete(self, path: CheckpointPath) -> None:
        """Delete a checkpoint."""
        self._rest.delete_checkpoint_from_tinker_path(str(path)).result()

    def set_public(self, path: CheckpointPath, public: bool) -> None:
        """Let every key of the service read a checkpoint, or its owner's alone."""
        if public:
            self._rest.publish_checkpoint_from_tinker_path(str(path)).result()
        else:
            self._rest.unpublish_checkpoint_from_tinker_path(str(path)).result()

    def set_ttl(self, path: CheckpointPath, seconds: int | None) -> None:
        """Set how long a checkpoint is kept from now on."""
        self._rest.set_checkpoint_ttl_from_tinker_path(str(path), seconds).result()

    def runs(self, limit: int) -> FoundRuns:
        """Return training runs, the one used last first."""
        found: list[TrainingRun] = []
        while True:
            page = self._rest.list_training_runs(limit=_PAGE, offset=len(found)).result()
            found += page.training_runs
            if len(page.training_runs) < _PAGE or (limit and len(found) >= limit):
                return FoundRuns(found[: limit or None], page.cursor.total_count)

    def run(self, run_id: str) -> TrainingRun:
        """Return one training run."""
        return self._rest.get_training_run(run_id, "accessible").result()

    def close(self) -> None:
        """Do nothing: a client that lists has no session to end."""
