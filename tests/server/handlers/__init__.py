"""What requests become: training, sampling, sessions, closing, imports."""
