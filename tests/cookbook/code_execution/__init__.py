"""Generated code: real programs behind real walls, problems, grades."""
