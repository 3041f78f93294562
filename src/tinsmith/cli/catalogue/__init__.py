"""What a service keeps, read and changed without an engine: training runs and checkpoints.

`opening` finds the catalogue: `local` is the database of a data folder, `remote` a service by URL. `checkpoints` and
`runs` are the commands on it, `options` what they take, `telling` the tables, times and sizes that they print.
"""
