"""File formats of volumes, their grids and orientations."""

DEFLATE_RATIO = 1032
"""The most bytes that DEFLATE (gzip, zlib, PNG) unpacks from one byte; a header that promises more is wrong."""
