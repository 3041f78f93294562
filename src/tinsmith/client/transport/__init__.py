"""How requests travel: `connection` (one service, at an `address`), `exchange` (once), `retry`, `polling`, `session`;
`futures` and their `async_twins`, and the background `loop`.

`embedding` is where the embedded service registers. The lowest room of the client: it imports only `types/`.
"""
