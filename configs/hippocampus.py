"""Anterior and posterior hippocampus: 10 cases with full masks, 150 with one point per structure and slice.

Source: Task04 of the Medical Segmentation Decathlon (Simpson et al., arXiv 1902.09063), patches of 64 x 48, width 16.
Cost: 7 minutes on one CPU core for upper_bound, including evaluation; not measured for other methods.
Result: Dice of anterior / posterior in percent, 40 test cases, seed 0: upper_bound 88.5 / 86.7. Other methods were
  measured with an earlier version, which stretched slices to 64 x 64 and trained for 1,000 steps without Dice (means of
  seeds 0, 1 and 2): kl_ent student 84.3 / 82.4, teacher 85.0 / 82.9, lower_bound 85.5 / 82.8, upper_bound 86.9 / 84.8;
  all in configs/results/hippocampus.
Command: python -m msl_jax.main --config=configs/hippocampus.py:method=upper_bound --workdir=RUN
"""

from ml_collections import ConfigDict

from msl_jax import settings


def get_config(arg: str | None = None) -> ConfigDict:
    """Small crops of T1-weighted MRI."""
    config = settings.defaults()
    config.data.layout = "msd"
    config.data.source = "../shared/data/hippocampus"
    config.data.classes = "all"
    config.data.strong = 10
    config.data.split_sizes = ((None, 20, 40),)
    config.data.weak = "point"
    config.data.weak_radius = 2
    config.data.size = (64, 48)  # all of most slices, whose pixels are 1 mm
    config.data.augment.flip = False  # anterior and posterior must not be swapped
    config.data.augment.rotation = 15.0
    config.method.dice = 1.0
    config.model.width, config.model.depth = 16, 4
    config.train.strong_batch = config.train.weak_batch = 8
    config.train.steps = 3_000
    config.train.checkpoint_every = config.train.validate_every = 500
    return settings.apply(config, arg)
