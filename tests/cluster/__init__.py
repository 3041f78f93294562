"""Where engines run: in this process, in a child process that dies, and the frames between."""
