"""What all kinds of requests go through."""
