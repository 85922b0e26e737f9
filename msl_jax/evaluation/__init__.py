"""From label maps to scores, tables and comparisons."""
