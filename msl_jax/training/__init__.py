"""The train step, the loop around it, and sweeps of runs."""
