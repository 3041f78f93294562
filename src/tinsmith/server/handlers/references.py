"""What preferences are measured against: a request names saved weights, and its run holds them from then on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from tinsmith.server.handlers.saving import SavingHandler
from tinsmith.server.state.live import TrainingRun
from tinsmith.server.store.core import Core
from tinsmith.types.errors import UserError, invalid
from tinsmith.types.facts.loss_table import BASE_REFERENCE, REFERENCE_KEY
from tinsmith.types.names.paths import CheckpointPath

_FIELD = f"loss_fn_config[{REFERENCE_KEY!r}]"


class ReferencesHandler:
    """Finds the weights that requests name, and pins them to their runs."""

    def __init__(self, core: Core, saving: SavingHandler) -> None:
        self._saving = saving
        self._checkpoints = core.checkpoints
        self._data_folder = core.data_folder

    async def find(self, run: TrainingRun, config: Mapping[str, float | str]) -> str | None:
        """Return what an operation of a run names: a folder of the run's own, `base`, or None for nothing.

        The folder lives as long as the run, so that the operation can be run again when the checkpoint is gone.

        Raises:
            UserError: there is no such checkpoint that the run's owner may read, or it is of another base model.
            Unavailable: it is still being saved.
        """
        named = config.get(REFERENCE_KEY)
        if named is None or named == BASE_REFERENCE:
            return BASE_REFERENCE if named is not None else None
        path = CheckpointPath.parse(str(named), _FIELD)
        await self._saving.settle_save(path, {run.owner})
        held = self._held(run, path)
        try:
            saved = await self._checkpoints.readable(path, {run.owner}, _FIELD)
        except UserError:
            # It was deleted since the run first named it.
            if held:
                return held[-1]
            raise
        if saved.base_model != run.base_model:
            raise invalid(_FIELD, str(path), f"weights of base model {run.base_model}, not of {saved.base_model}")
        # Told by its files: other weights may have been saved under the name meanwhile.
        version = _digest(saved.folder)
        for folder in held:
            if folder.endswith(version):
                return folder
        folder = f"{self._stem(run, path)}{len(held):04d}-{version}"
        await self._data_folder.pin_once(saved.folder, folder)
        return folder

    def _held(self, run: TrainingRun, path: CheckpointPath) -> list[str]:
        """Return what the run has pinned under a name, oldest first."""
        return self._data_folder.matching(f"{self._stem(run, path)}*")

    def _stem(self, run: TrainingRun, path: CheckpointPath) -> str:
        return f"{self._data_folder.recovery(run.id)}/reference-{_digest(str(path))}-"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
