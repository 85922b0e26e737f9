"""File formats of volumes, their grids and orientations."""

DEFLATE_RATIO = 1032
"""Maximum compression ratio of DEFLATE (gzip, zlib, PNG); a header that declares more data than that is wrong."""
