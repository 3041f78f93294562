"""Pages of a run to read: `transcript` fills them block by block, `visible` spells out what a page would swallow.

`templates/` has their HTML.
"""
