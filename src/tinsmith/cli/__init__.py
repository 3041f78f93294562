"""The command line: `main` is the root and loads a sub-command's module when it is called.

One module per command, each with a typer `app`: `serve`, `key` (the service), `demo`, `chat`, `checkpoint` (its users).
"""
