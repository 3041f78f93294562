"""Formats in which people have their rows, and how each becomes a row of ours.

`own_form` is the door: it knows which format a row is in, and lets no key vanish that says what is learned. `sharegpt`
and `alpaca` convert whole rows, `chat_messages` the messages and `tool_lists` the tools of all of them; `row_keys`
says what becomes of every other key.
"""
