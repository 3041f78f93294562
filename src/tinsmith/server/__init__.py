"""The API process: validates at the door, journals before it acknowledges, keeps futures, rebuilds what an engine lost.

Rooms, each may import those after it: `http/` (routes), `handlers/` (what a request becomes), `engine_link/` (the way
to the engine and back), `store/` (what is on disk), `state/` (what is alive). `service` wires them.
"""
