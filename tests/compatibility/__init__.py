"""Data of an earlier form, opened by the code of today: journals, run folders and what went over the wire.

What is in `before/` was written once, by `make_before.py`, and stays as it is; the tests read copies of it.
"""
