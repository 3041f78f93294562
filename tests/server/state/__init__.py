"""What is alive: futures and how long they are kept."""
