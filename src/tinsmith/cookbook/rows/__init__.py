"""Rows of training data: where they come from, what one may be, in which order an epoch takes them.

`sources` opens what `data=` names (`files/`, `row_stream`, `mixture`);
`formats` makes rows of ours of those that people have, `row_kinds` says what a row is, `row_sequence` what all of them
can do; `intake` is the door of every source, where bad rows are counted and notes are taken (`row_notes`).
"""

from tinsmith.cookbook import extra as extra  # first: it says what is not installed
