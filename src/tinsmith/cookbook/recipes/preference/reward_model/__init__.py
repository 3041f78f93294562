"""A reward model: a scalar for any prompt and completion, learned from comparisons, served as a plain adapter."""
