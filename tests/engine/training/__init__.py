"""Training passes: losses, gradients equal to PEFT's, and that neighbours in a pass change nothing."""
