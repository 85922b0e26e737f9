"""A run's folder: config, splits, checkpoints, reports, lock."""
