"""ACDC with the experts' scribbles: 3 full masks, all structures, sized for 2 CPU cores.

Source: masks by Bernard et al. (IEEE TMI 2018), scribbles by Valvano et al. (IEEE TMI 2021).
Cost: not measured yet on an idle machine.
Result: not measured yet.
Command: python -m msl_jax.main --config=configs/acdc_scribbles.py --config.data.source=ACDC --workdir=RUN
"""

from ml_collections import ConfigDict

from msl_jax import settings


def get_config(arg: str | None = None) -> ConfigDict:
    """acdc_cpu.py with all structures, drawn annotations and more steps."""
    config = settings.load("acdc_cpu").unlock()
    config.data.classes = "all"
    config.data.weak = "drawn"
    config.method.weak_weight = 1.0  # scribbles include background
    config.train.steps = 6_000
    config.train.checkpoint_every = config.train.validate_every = 2_000
    return settings.apply(config, arg)
