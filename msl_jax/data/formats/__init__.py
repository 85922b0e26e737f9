"""File formats of volumes, their grids and orientations."""

DEFLATE_RATIO = 1032
"""The most bytes that DEFLATE makes of one: of gzip, zlib, PNG; a file that promises more is damaged."""
