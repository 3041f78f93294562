"""Records: their ids, and who waits for them."""

from __future__ import annotations

import asyncio
import os

from tinsmith.server.state.records import Latch, new_id


def _id_of_a_fork() -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, new_id().encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    return found


def test_forked_processes_draw_ids_of_their_own() -> None:
    """A sample without a seed is drawn by its id: workers that share one would all draw the same."""
    ids = {_id_of_a_fork(), _id_of_a_fork(), new_id()}

    assert len(ids) == 3
    assert all(len(one) == 32 for one in ids)


def test_a_latch_wakes_all_who_wait_and_holds_up_nobody_who_comes_later() -> None:
    async def waited() -> int:
        latch = Latch()
        waiting = [asyncio.create_task(latch.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        assert not latch.is_set()
        assert not any(task.done() for task in waiting)
        latch.set()
        latch.set()
        await asyncio.wait_for(asyncio.gather(*waiting, latch.wait()), 5)
        return sum(task.done() for task in waiting)

    assert asyncio.run(waited()) == 3
