"""The table of speed targets, `python -m benchmarks.targets`: rows that measure two things in turns and say what holds.

`sides` puts contestants into processes of their own, `bench` holds a checkpoint and who works on it, `results` is a row
and the table. The rows themselves: `training`, `sampling`, `busy`, `memory`, `service`; `rows` lists them.
"""
