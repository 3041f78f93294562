"""Pages of a run to read: `transcript` fills them block by block, `visible` spells out what a page would swallow.

`run_index` is the page that lists them, with `curves`; `rendering` makes HTML of `templates/`.
"""
