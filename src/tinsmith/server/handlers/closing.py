"""Sampling sessions that end before their session, so that the snapshots of a long run fill neither memory nor disk."""

from __future__ import annotations

from sqlalchemy import delete

from tinsmith.server.engine_link.dispatcher import Dispatcher
from tinsmith.server.engine_link.recovery_points import RecoveryPoints
from tinsmith.server.state.live import SamplingSession
from tinsmith.server.store.core import Core
from tinsmith.server.store.db.tables import SamplerRow


class ClosingHandler:
    """Closes sampling sessions that their client no longer needs.

    Recovery needs none of them: a replay leaves out the snapshots of samplers that are gone (`recovery.plan`), and a
    journal that waited for one to reach the disk can be cut.
    """

    def __init__(self, core: Core, dispatcher: Dispatcher, recovery_points: RecoveryPoints) -> None:
        self._dispatcher = dispatcher
        self._recovery_points = recovery_points
        self._live = core.live
        self._db = core.db
        self._futures = core.futures
        self._data_folder = core.data_folder
        self._tasks = core.tasks

    def close(self, owner: str, sampler_id: str) -> None:
        """Take no more samples, and free the sampler once those that were accepted are done; a repeat does nothing.

        Raises:
            UserError: there is no such sampling session (404).
        """
        sampler = self._live.samplers.get(sampler_id)
        if sampler is not None and sampler.owner == owner and sampler.closing:
            return
        sampler = self._live.sampler(sampler_id, owner)
        sampler.closing = True
        self._tasks.start(self._free(sampler))

    async def _free(self, sampler: SamplingSession) -> None:
        # The snapshot that makes it is one of them: its row must be there before it is deleted.
        of_it = [record for record in self._futures.of_session(sampler.session_id) if record.sampler_id == sampler.id]
        for record in of_it:
            await record.settled.wait()
        if self._live.samplers.get(sampler.id) is not sampler:
            return  # its session ended meanwhile, or it could not be made
        self._live.drop_sampler(sampler)
        self._dispatcher.release_sampler(sampler)
        statement = delete(SamplerRow).where(SamplerRow.id == sampler.id)
        await self._db.write_until_stored(lambda connection: connection.execute(statement))
        if sampler.folder is not None:
            await self._data_folder.remove(sampler.folder)
        run = self._live.runs.get(sampler.model_id or "")
        if run is not None:
            await self._recovery_points.prune(run)
