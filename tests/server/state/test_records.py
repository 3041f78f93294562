"""Records: their ids."""

from __future__ import annotations

import os

from tinsmith.server.state.records import new_id


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
