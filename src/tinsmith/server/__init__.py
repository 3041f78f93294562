"""The API process: validates at the door, journals before it acknowledges, keeps futures, rebuilds what an engine lost.

`service` wires everything and `app` + `routes/` put it on HTTP; `training`, `sampling`, `sessions`, `checkpoints` are
the doors; `intake`, `futures`, `journal`, `dispatch`, `completion`, `recovery` are an operation's way; `db/` stores.
"""
