"""What tests of several folders use: tiny checkpoints, fakes, live servers, references."""
