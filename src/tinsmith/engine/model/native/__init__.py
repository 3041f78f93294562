"""What a CPU spends most time on, in C: `compiler` builds it for the processor it runs on; else torch does it."""
