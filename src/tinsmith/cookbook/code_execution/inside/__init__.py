"""Scripts that run on the other side, each in a fresh interpreter without site-packages: standard library only.

`launcher` starts one program and ends all that it started; `namespaces` builds the walls around it; `guest` runs a
program against its tests and tells what came out.
"""
