"""What the label maps of this package hold beside classes and label values."""

UNLABELED = 255
"""A pixel nobody annotated, in every label map of this package."""
