"""ACDC with the experts' scribbles: 3 full masks, all structures, sized for 2 CPU cores.

Source: masks by Bernard et al. (IEEE TMI 2018), scribbles by Valvano et al. (IEEE TMI 2021).
Cost: 27 minutes of CPU time for kl_ent on 2 busy cores, including evaluation; not measured on an idle machine.
Result: Dice of RV, MYO and LV in percent, 15 test patients, seed 0: kl_ent student 83.6, 81.8, 90.7 (mean 85.4),
  teacher 70.4, 79.5, 88.1; upper_bound 82.5, 83.6, 92.1 (mean 86.1). Other seeds and methods are not measured.
Command: python -m msl_jax.main --config=configs/acdc_scribbles.py --config.data.source=ACDC --workdir=RUN
"""

from ml_collections import ConfigDict

from msl_jax import settings


def get_config(arg: str | None = None) -> ConfigDict:
    """acdc_cpu.py with all structures, drawn annotations, larger batches and more steps."""
    config = settings.load("acdc_cpu").unlock()
    config.data.classes = "all"
    config.data.weak = "drawn"
    config.method.weak_weight = 1.0  # scribbles include background
    config.train.strong_batch = config.train.weak_batch = 8
    config.train.steps = 5_000
    config.train.checkpoint_every = config.train.validate_every = 1_000
    return settings.apply(config, arg)
