"""Helpers of tests of files: write volumes with the formats' own libraries, check errors and cases."""

import pathlib

import h5py
import nibabel as nib
import numpy as np
from PIL import Image
import pytest
import SimpleITK as sitk

from msl_jax.data.case import Source
from msl_jax.errors import InputError

SIZES = (1.5, 1.25, 8)
NOTHING = object()
"""As content of a file: a broken link."""


def save(path, voxels, sizes=SIZES):
    """Writes (slice, y, x[, channel]) with RAS axes and voxel sizes (x, y, slice) in mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii", ".nii.gz")):
        image = nib.Nifti1Image(np.moveaxis(voxels, (0, 1, 2), (2, 1, 0)), np.diag([*sizes, 1]))
        image.header.set_xyzt_units("mm")
        nib.save(image, path)
    else:
        image = sitk.GetImageFromArray(voxels, isVector=voxels.ndim == 4)
        image.SetSpacing(sizes)
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        sitk.WriteImage(image, str(path), useCompression=True)
    return path


def write(folder, files):
    """Writes path -> text, bytes, arrays of HDF5, voxels, NOTHING, or None for no file."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is NOTHING:
            path.symlink_to(folder / "nowhere")
        elif isinstance(content, str):
            path.write_text(content)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, dict):
            with h5py.File(path, "w") as file:
                for key, voxels in content.items():
                    file[key] = voxels
        elif path.suffix == ".png" and content is not None:
            Image.fromarray(content).save(path)
        elif content is not None:
            save(path, content)
    return folder


def arrays(name, shape=(3, 6, 7), values=(0, 1, 2, 3), unlabeled=255):
    """Random image, mask and annotation (slice, y, x) with the name as seed."""
    rng = np.random.default_rng(list(name.encode()))
    image = rng.integers(0, 900, shape, np.int16)
    mask = rng.choice(np.array(values, np.uint8), shape)
    return image, mask, np.where(rng.random(shape) < 0.8, np.uint8(unlabeled), mask)


def assert_input_error(call, message, start=""):
    """Asserts that `call` raises InputError with one line that matches `message` and begins with `start`."""
    with pytest.raises(InputError, match=message) as error:
        call()
    assert str(error.value).startswith(str(start)) and "\n" not in str(error.value)


def one_sentence(code, err, words):
    """Asserts that a command failed with one sentence on standard error that contains these words."""
    assert code not in (0, None) and "Traceback" not in err
    (line,) = (line for line in err.splitlines() if not line.startswith(("Building the data set ", "warning: ")))
    assert line.startswith("msl_jax: ") and line[9] != " " and line[-1] in ".?", line
    assert all(word in line for word in words), line


def at(layout, folder: pathlib.Path, **settings) -> Source:
    """The source of a data set with this layout."""
    return Source(layout, str(folder), **settings)


def assert_case(case, name, image, mask=None, annotation=None):
    """Asserts that a case has these arrays, (slice, y, x[, channel]) of any type, as float32 and uint8."""
    assert case.name == name
    assert case.image.dtype == np.float32
    np.testing.assert_array_equal(case.image, image if image.ndim == 4 else image[..., None])
    for actual, expected in ((case.mask, mask), (case.annotation, annotation)):
        assert (actual is None) == (expected is None)
        if expected is not None:
            assert actual.dtype == np.uint8
            np.testing.assert_array_equal(actual, expected)
