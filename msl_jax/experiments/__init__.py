"""From a config to everything it stands for, and what its data look like."""
