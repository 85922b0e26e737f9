"""Segments files of volumes with a trained run, or several together: label maps on the input's own grid.

python -m msl_jax.predict --workdir=RUN[,RUN...] --input=FILE_OR_FOLDER --output=FOLDER
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import pathlib

from etils import epath
import numpy as np
from scipy import ndimage

from msl_jax.data.formats import orientation, volumes
from msl_jax.data.readers import READERS
from msl_jax.errors import InputError, raise_all, warn_all
from msl_jax.inference.ensemble import Ensemble
from msl_jax.inference.images import read_image, remarks
from msl_jax.system.paths import check_output
from msl_jax.system.text import counted, few

PLAIN = ".nii.gz"
"""Ending of the label maps of images that are no volumes' files, as PNG slices are not."""
MOST_BYTES = 255
"""Of a file's name, on the file systems there are."""


def predict(
    workdirs: Sequence[epath.Path],
    source: pathlib.Path,
    output: pathlib.Path,
    *,
    branch: str | None = None,
    save_probabilities: bool = False,
    largest_component: bool = False,
    overwrite: bool = False,
    skip_existing: bool = False,
) -> list[pathlib.Path]:
    """Writes a label map for each image, and probabilities on request, one volume at a time.

    An image that cannot be segmented stops none of the others; what looks odd is said on standard error.

    Args:
      workdirs: the folders of runs (seeds, folds); the mean of their probabilities decides.
      source: an image, or a folder in which images are found as in the data set's layout.
      output: the folder to write into; below it names and sub-folders are those of the input.
      branch: "teacher" or "student"; None for the student, or the teacher where it is alone.
      save_probabilities: also write NAME_prob, .nii.gz or as the input ends, float32 (x, y, slice, class), background
        first.
      largest_component: keep the largest connected component of each structure alone.
      overwrite: replace what is there.
      skip_existing: pass over images whose label maps are there.

    Returns:
      The paths of the label maps that were written.

    Raises:
      InputError: there is nothing to segment, an output exists or cannot have its name, or the runs do not segment the
        same structures of the same kind of images; or, once all others are written, what is wrong with each file that
        is no image or has other channels.
    """
    ensemble = Ensemble(workdirs)
    config = ensemble.configs[0]
    ensemble.load(branch)
    check_output(output)
    targets = _targets(source, output, READERS[config.data.layout].images)
    _check_outputs(targets, save_probabilities, overwrite or skip_existing)
    if skip_existing:
        targets = _not_there(targets, save_probabilities)
    structures = ", ".join(f"{name}={value}" for name, value in config.data.classes.items())
    written, problems = [], []
    for label_file, files in targets.items():
        try:
            image = read_image(config, files)
        except InputError as refused:
            problems.append(str(refused))
            continue
        warn_all(remark for run_config in ensemble.configs for remark in remarks(run_config, image))
        turns = ensemble.turns(image.directions)
        probabilities = ensemble.probabilities(image.voxels, turns, branch)
        label_map = ensemble.label_map(probabilities)
        if largest_component:
            label_map = largest_components(label_map)
        volumes.write(label_file, label_map, image)
        if save_probabilities:
            volumes.write(_probability_file(label_file), probabilities, image)
        turned = turns[0] != orientation.turn_across(config.data.axis)
        notes = [
            *dict.fromkeys(ensemble.branches(branch)),
            structures,
            *(["turned to lie as in training"] if turned else []),
        ]
        print(f"{label_file}  {', '.join(notes)}", flush=True)
        written.append(label_file)
    if problems and written:
        problems.append(f"{output}: holds the label maps of the other {counted(len(written), 'image')} of {source}.")
    raise_all(problems)
    return written


def largest_components(label_map: np.ndarray) -> np.ndarray:
    """(slice, y, x) with the largest component of each label alone, of voxels that touch also by corners; else 0."""
    kept = np.zeros_like(label_map)
    for label in np.unique(label_map[label_map > 0]):
        components, _ = ndimage.label(label_map == label, np.ones((3, 3, 3)))
        sizes = np.bincount(components.ravel())
        sizes[0] = 0
        kept[components == sizes.argmax()] = label
    return kept


def _targets(
    source: pathlib.Path, output: pathlib.Path, images: Callable[[pathlib.Path], Mapping[str, tuple[pathlib.Path, ...]]]
) -> dict[pathlib.Path, tuple[pathlib.Path, ...]]:
    """Label file to write -> the files of its image, one or one a channel."""
    if source.is_dir():
        cases, found = images(source), set(volumes.find_all(source))
        if output.resolve() != source.resolve():
            there = {path for path in source.rglob("*") if path.resolve().is_relative_to(output.resolve())}
            cases, found = {n: files for n, files in cases.items() if there.isdisjoint(files)}, found - there
        others = len(found.difference(*cases.values()))
        if others:
            print(f"Passing over {counted(others, 'file')} not taken for an image in this layout.")
        warn_all(_of_other_formats(source))
    else:
        cases = {volumes.stem(source) if volumes.ending(source) else source.stem: (source,)}
    if not cases:
        raise InputError(f"{source}: holds no images; give a folder of files that end in {', '.join(volumes.ENDINGS)}.")
    return {output / (name + (volumes.ending(files[0]) or PLAIN)): files for name, files in cases.items()}


def _of_other_formats(folder: pathlib.Path) -> Iterator[str]:
    """Of volumes below a folder that cannot be read, a sentence."""
    below = [path.relative_to(folder) for path in sorted(folder.rglob("*"))]
    shown = [path.as_posix() for path in below if not any(part[0] == "." for part in path.parts)]
    unread = [name for name in shown if name.lower().endswith(volumes.UNREAD)]
    if unread:
        yield (
            f"{folder}: {few(unread)} are passed over, their format is not read; convert them to files that end in "
            f"{', '.join(volumes.ENDINGS)}."
        )


def _not_there(
    targets: Mapping[pathlib.Path, tuple[pathlib.Path, ...]], save_probabilities: bool
) -> dict[pathlib.Path, tuple[pathlib.Path, ...]]:
    """The targets of which not all files are there; says how many are passed over."""
    missing = {
        path: files
        for path, files in targets.items()
        if not path.exists() or (save_probabilities and not _probability_file(path).exists())
    }
    print(f"Passing over {counted(len(targets) - len(missing), 'image')} whose label maps are there.")
    return missing


def _check_outputs(
    targets: Mapping[pathlib.Path, tuple[pathlib.Path, ...]], save_probabilities: bool, may_exist: bool
) -> None:
    """Raises InputError where a file to write is an image, has been named before, exists, or has too long a name."""
    inputs = {path.resolve() for files in targets.values() for path in files}
    seen = set()
    for path in (*targets, *(map(_probability_file, targets) if save_probabilities else ())):
        volumes.check_name(path)
        if len(path.name.encode()) > MOST_BYTES:
            raise InputError(f"{path}: is too long a name for a file; rename the image.")
        if path.resolve() in inputs:
            raise InputError(f"{path}: is one of the images; give an --output apart from --input.")
        if path in seen:
            raise InputError(f"{path}: would be a label map and probabilities; rename the image of that name.")
        if path.exists() and not may_exist:
            raise InputError(f"{path}: exists; give another --output, --overwrite or --skip_existing.")
        seen.add(path)


def _probability_file(label_file: pathlib.Path) -> pathlib.Path:
    """NAME_prob in the format of the label map, NIfTI compressed."""
    ending = volumes.ending(label_file)
    return label_file.with_name(f"{volumes.stem(label_file)}_prob{PLAIN if ending.lower() == '.nii' else ending}")
