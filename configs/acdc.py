"""The papers' experiment: left ventricle of ACDC, 2-D slices of 256 x 256, width 64, three fully annotated patients.

Method: kl_ent, the default of msl_jax/settings/defaults.py.
Source: arXiv 2012.08051 and 2109.10902.
Cost: about 50 s per step and 7.7 GB of memory on 2 CPU cores (3 steps measured); not measured on a GPU yet.
Result: not measured yet; acdc_cpu.py has results of a smaller version.
Command: python -m msl_jax.main --config=configs/acdc.py --config.data.source=ACDC --workdir=RUN
"""

from ml_collections import ConfigDict

from msl_jax import settings


def get_config(arg: str | None = None) -> ConfigDict:
    """The papers' experiment, changed by ARG."""
    config = settings.defaults()
    config.data.layout = "acdc"
    config.data.source = "data/acdc"
    config.data.classes = "LV"
    config.data.strong = 3
    config.data.weak = "erosion"
    config.data.size = 256
    config.model.width, config.model.depth = 64, 5
    config.train.steps = 20_000
    return settings.apply(config, arg)
