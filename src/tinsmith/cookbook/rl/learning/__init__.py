"""What is learned from trajectories: advantages, examples, the penalty for leaving a reference, policy metrics."""
