"""The value of unlabelled pixels."""

UNLABELED = 255
"""A pixel without annotation, in every label map of this package."""
