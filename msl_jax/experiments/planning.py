"""Settings that follow from the data set: what "auto" stands for."""

import copy

from ml_collections import ConfigDict
import numpy as np

from msl_jax.data.builder import Dataset
from msl_jax.data.case import shared_unit
from msl_jax.data.preparation import AUTO, NATIVE, STRETCH


def planned(config: ConfigDict, data: Dataset) -> ConfigDict:
    """A copy of the config with numbers in place of "auto".

    All cases of the data set count, so that folds and seeds get the same numbers.

    Raises:
      InputError: slices are to be resampled, but some cases have voxel sizes and some do not.
    """
    config = copy.deepcopy(config)
    if config.data.spacing not in (NATIVE, STRETCH):
        shared_unit(data.entries)
    if config.data.spacing == AUTO:
        config.data.spacing = median_spacing(data)
    return config


def median_spacing(data: Dataset) -> tuple[float, float]:
    """(y, x) of the data set's pixels: the median over cases, as in nnU-Net's 2-D configuration."""
    y, x = np.median([entry.spacing[1:] for entry in data.entries], axis=0).tolist()
    return y, x
