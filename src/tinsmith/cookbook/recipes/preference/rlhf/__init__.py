"""Reinforcement learning from human feedback: a reward model, then a policy that learns from it, in one command."""
