"""Mixed-supervision medical image segmentation with a confident student, in JAX and Flax."""

import os

# TensorFlow, which only feeds data here, announces itself on import; errors still show.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
