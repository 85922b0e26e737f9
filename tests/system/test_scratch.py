"""Arrays on disk leave no file, and do not end the process where the disk is full."""

import numpy as np
import pytest

from msl_jax.errors import InputError
from msl_jax.system import scratch


def test_an_array_on_disk_is_zeros_in_a_file_without_a_name(tmp_path):
    array = scratch.array((3, 4), tmp_path)
    assert not list(tmp_path.iterdir())
    assert array.shape == (3, 4) and array.dtype == np.float32 and not array.any()
    array[1] += 2
    np.testing.assert_array_equal(array.sum(1), [0, 8, 0])


def test_a_full_disk_is_an_error(tmp_path):
    with pytest.raises(InputError, match=rf"{tmp_path}: has .* GB of free space, but probabilities of 4503599\.6 GB"):
        scratch.array((2**20, 2**20, 2**10), tmp_path)
