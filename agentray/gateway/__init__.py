"""HTTP: keys, prompts, runs and their event streams."""
