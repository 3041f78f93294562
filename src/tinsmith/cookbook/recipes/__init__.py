"""Training loops to read, run and copy: `sl_loop` (supervised)."""
