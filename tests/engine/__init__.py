"""The engine: exactness (parity with PEFT, neighbours, determinism) and its parts, a folder per room."""
