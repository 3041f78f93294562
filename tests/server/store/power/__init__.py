"""Power loss: `recorder.c` notes what a process writes and syncs, `disk` what a disk would hold, `scenario` runs."""
