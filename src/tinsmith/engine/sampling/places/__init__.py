"""Places in the batch and blocks of the cache: `waiting` for one, `holdings` of each owner, and `room` for a newcomer.

Nothing here moves a sequence: `schedule` asks, and does it.
"""
