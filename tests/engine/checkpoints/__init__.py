"""Adapters on disk: states, adapters of others, merged models, fingerprints."""
