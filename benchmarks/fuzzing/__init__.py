"""Random requests to every route of the service's app: what is sent, and what came of it."""
