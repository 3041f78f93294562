"""The way to the engine: recovery by replay."""
