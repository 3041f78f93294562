"""Random requests to every route of the service's app.

`__main__` is the command, `fuzzer` sends and counts, `mutations` makes bodies, `world` is the app they are sent to.
"""
