"""The machine and the operating system: XLA settings, signals, paths, atomic file writes."""
