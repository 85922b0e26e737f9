"""From a config to an experiment (data, splits, method, network), and the survey of its data."""
