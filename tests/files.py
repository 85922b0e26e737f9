"""What tests of files share: volumes written by the formats' own libraries, and how a refusal reads."""

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
"""In place of what a file holds: it is a link to nothing."""


def save(path, voxels, sizes=SIZES):
    """Writes (slice, y, x[, channel]), voxels of `sizes` (x, y, slice) in mm, axes to the right, front and head."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii", ".nii.gz")):
        made = nib.Nifti1Image(np.moveaxis(voxels, (0, 1, 2), (2, 1, 0)), np.diag([*sizes, 1]))
        made.header.set_xyzt_units("mm")
        nib.save(made, path)
    else:
        made = sitk.GetImageFromArray(voxels, isVector=voxels.ndim == 4)
        made.SetSpacing(sizes)
        made.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        sitk.WriteImage(made, str(path), useCompression=True)
    return path


def write(folder, files):
    """Writes what is to lie at these paths: text, bytes, arrays of HDF5, or voxels; what is None is left out."""
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
    """Image, mask and annotation that belong to this name alone."""
    rng = np.random.default_rng(list(name.encode()))
    image = rng.integers(0, 900, shape, np.int16)
    mask = rng.choice(np.array(values, np.uint8), shape)
    return image, mask, np.where(rng.random(shape) < 0.8, np.uint8(unlabeled), mask)


def refused(ask, says, names=""):
    """Asserts that `ask` is refused in one line with these words, and that it begins with the path `names`."""
    with pytest.raises(InputError, match=says) as refusal:
        ask()
    assert str(refusal.value).startswith(str(names)) and "\n" not in str(refusal.value)


def one_sentence(code, err, said):
    """Asserts that a command ended so: a code other than 0, and on standard error one sentence with these words."""
    assert code not in (0, None) and "Traceback" not in err
    (line,) = (line for line in err.splitlines() if not line.startswith(("Building the data set ", "warning: ")))
    assert line.startswith("msl_jax: ") and line[9] != " " and line[-1] in ".?", line
    assert all(word in line for word in said), line


def at(layout, folder: pathlib.Path, **known) -> Source:
    """A data set of this layout."""
    return Source(layout, str(folder), **known)


def assert_case(case, name, image, mask=None, annotation=None):
    """Asserts that a case holds these arrays, (slice, y, x[, channel]) of any type, as a case does."""
    assert case.name == name
    assert case.image.dtype == np.float32
    np.testing.assert_array_equal(case.image, image if image.ndim == 4 else image[..., None])
    for got, expected in ((case.mask, mask), (case.annotation, annotation)):
        assert (got is None) == (expected is None)
        if expected is not None:
            assert got.dtype == np.uint8
            np.testing.assert_array_equal(got, expected)
