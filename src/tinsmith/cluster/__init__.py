"""Where engine hosts run: on a thread of this process (`in_process`), in a child process (`child`, `engine_main`).

Each is an `EngineLink`; `loading` makes engines of model names, `frames` carries operations and events over a socket.
"""
