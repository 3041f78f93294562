"""How requests travel: `connection` (one service), `retry`, `polling`, `session`, `futures`, the background `loop`.

`embedding` is where the embedded service registers. The lowest room of the client: it imports only `types/`.
"""
