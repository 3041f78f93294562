"""The service on HTTP: the listener, and pages that need no key."""
