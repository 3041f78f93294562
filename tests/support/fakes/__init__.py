"""Stand-ins without a model: an engine, the link to an engine's host, a whole service."""
