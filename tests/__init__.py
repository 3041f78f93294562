"""The tests lie as the code does: `tests/engine/sampling` tests `tinsmith/engine/sampling`, and so on.

What crosses rooms has folders of its own: `official` (the official SDK and cookbook), `slides` (the course's code),
`bad_input`, `compatibility` (data of earlier versions), `benchmarks`, `docs`. `support` holds what several folders use.
Each folder's own line says which behaviour is tested there.
"""
