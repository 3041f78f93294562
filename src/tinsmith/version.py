"""The version of this distribution. In a module of its own, so that the SDK's lowest rooms need not import its face."""

__version__ = "0.1.0"
