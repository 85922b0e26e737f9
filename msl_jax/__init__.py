"""Mixed-supervision medical image segmentation with a confident student, in JAX and Flax."""
