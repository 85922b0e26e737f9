"""The machine and the operating system: XLA settings, signals, paths, whole files."""
