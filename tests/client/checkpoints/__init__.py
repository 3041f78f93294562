"""`RestClient`, and adapters that are brought to a service."""
