"""One full mask and many scribbles, on generated heart phantoms: 40 patients, four classes, 96 x 96, 600 steps.

Source: msl_jax/data/readers/phantom.py.
Cost: 3 to 4 minutes on 2 CPU cores, including building and evaluation.
Result: Dice of RV, MYO and LV in percent, 10 test patients, seed 0: student 75.0, 85.8, 91.2, teacher 77.7, 84.5, 92.1;
  95 % Hausdorff distance of the student's RV 20.4 mm. An example, not a benchmark: another CPU or version changes
  floating-point order. The picture in the README is of an earlier version.
Command: make demo
"""

from ml_collections import ConfigDict

from msl_jax import settings


def get_config(arg: str | None = None) -> ConfigDict:
    """40 phantoms at the size of acdc_cpu.py: all structures, with scribbles of structures and background."""
    config = settings.defaults()
    config.data.layout = "phantom"
    config.data.source = "patients=40,seed=0"
    config.data.split_sizes = ((25, 5, 10),)
    config.data.classes = "all"
    config.data.strong = 1
    config.data.weak, config.data.weak_background = "scribble", True
    config.data.spacing, config.data.size = 2.5, 96
    config.method.weak_weight = 1.0
    config.model.width = 8
    config.optimizer.learning_rate = 4e-3
    config.train.steps = 600
    config.train.report_every = 50
    config.train.checkpoint_every = config.train.validate_every = 200
    return settings.apply(config, arg)
