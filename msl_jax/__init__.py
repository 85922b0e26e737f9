"""Mixed-supervision medical image segmentation with a confident student, in JAX and Flax."""

import os

# TensorFlow only feeds data here: no greetings (errors still show), and sums in the same order on every machine.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
if os.path.expanduser("~") == "~":  # there is no home folder: Keras, which TensorFlow imports, would make one named "~"
    os.environ.setdefault("KERAS_HOME", os.devnull)
