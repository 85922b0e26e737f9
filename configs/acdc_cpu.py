"""The experiment of acdc.py sized for 2 CPU cores: 96 x 96, width 8."""

from ml_collections import config_dict

import configs
from configs import acdc


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    """acdc.py with a smaller network and smaller images."""
    config = acdc.get_config().unlock()
    config.data.size = 96
    config.model.width = 8
    config.train.steps = 3_000
    config.train.checkpoint_every = config.train.validate_every = 500
    return configs.apply(config, arg)
