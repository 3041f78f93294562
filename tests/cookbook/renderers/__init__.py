"""Renderers against the published templates, family by family, and any other template."""
