"""Segments image files with one or more trained runs; label maps have the input's own grid."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import pathlib

from etils import epath

from msl_jax.data.formats import orientation, volumes
from msl_jax.data.readers import READERS
from msl_jax.errors import InputError, raise_all, warn_all
from msl_jax.inference.ensemble import Ensemble
from msl_jax.inference.images import readable_images, remarks
from msl_jax.system.paths import check_output
from msl_jax.system.text import counted, few

PLAIN = ".nii.gz"
"""File extension of the label maps of images that are not volume files, like PNG slices."""
MOST_BYTES = 255
"""Maximum length of a file name on common file systems."""


def predict(
    workdirs: Sequence[epath.Path],
    source: pathlib.Path,
    output: pathlib.Path,
    *,
    branch: str | None = None,
    save_probabilities: bool = False,
    calibrated: bool = False,
    largest_component: bool | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
) -> list[pathlib.Path]:
    """Writes a label map for each image, and probabilities on request, one volume at a time.

    If an image cannot be segmented, the others still are. Suspicious input gives a warning on standard error.

    Args:
      workdirs: the folders of runs, or of the folds of a cross-validation; their probabilities are averaged.
      source: an image, or a folder in which images are found as in the data set's layout.
      output: the output folder; names and sub-folders are those of the input.
      branch: "teacher" or "student"; None for the one that each run selected.
      save_probabilities: also write NAME_prob with the input's extension or .nii.gz, float32 (x, y, slice, class),
        background first.
      calibrated: scale each run's probabilities by the temperature that was fitted on its validation cases. The label
        map of a single run stays the same.
      largest_component: keep only the largest connected component of every structure, or of none; None for those
        that all runs selected.
      overwrite: replace existing files.
      skip_existing: skip images that already have label maps.

    Returns:
      The paths of the written label maps.

    Raises:
      InputError: calibration has no effect, there is nothing to segment, an output exists or has an invalid name, or
        the runs have different structures or kinds of images. Files that are no images or have other channels are
        listed after all others are written.
    """
    ensemble = Ensemble(workdirs)
    config = ensemble.configs[0]
    if calibrated and not save_probabilities and len(ensemble.workdirs) == 1:
        raise InputError("calibrated: has no effect on the label maps of a single run; also save probabilities.")
    ensemble.load(branch, calibrated)
    check_output(output)
    targets = _targets(source, output, READERS[config.data.layout].images)
    _check_outputs(targets, save_probabilities, overwrite or skip_existing)
    if skip_existing:
        targets = _missing(targets, save_probabilities)
    largest = list(config.data.classes) if largest_component else []
    if largest_component is None:
        largest = ensemble.selected_structures(branch)
    if branch is None:
        for workdir, selection in zip(ensemble.workdirs, ensemble.selections, strict=True):
            print(f"{workdir}: {selection}")
    structures = ", ".join(f"{name}={value}" for name, value in config.data.classes.items())
    written: list[pathlib.Path] = []
    problems: list[str] = []
    for label_file, image in readable_images(config, targets, problems):
        warn_all(remark for run_config in ensemble.configs for remark in remarks(run_config, image))
        turns = ensemble.turns(image.directions)
        try:
            _segment(ensemble, image, turns, branch, label_file, save_probabilities, calibrated, largest)
        except InputError as error:  # too little space for a temporary file
            problems.append(str(error))
            continue
        turned = turns[0] != orientation.turn_across(config.data.axis)
        notes = [
            *dict.fromkeys(ensemble.branches(branch)),
            structures,
            *([f"largest component of {', '.join(largest)}"] if largest else []),
            *(["reoriented as in training"] if turned else []),
        ]
        print(f"{label_file}  {', '.join(notes)}", flush=True)
        written.append(label_file)
    if problems and written:
        problems.append(f"{output}: contains the label maps of the other {counted(len(written), 'image')} of {source}.")
    raise_all(problems)
    return written


def _segment(
    ensemble: Ensemble,
    image: volumes.Volume,
    turns: Sequence[orientation.Turn],
    branch: str | None,
    label_file: pathlib.Path,
    save_probabilities: bool,
    calibrated: bool,
    largest: Sequence[str],
) -> None:
    """Writes the label map of an image and, on request, its probabilities; arguments as of `predict`.

    Of the structures in `largest`, only the largest component is kept.
    """
    folder = label_file.parent
    folder.mkdir(parents=True, exist_ok=True)
    kept_in = folder if save_probabilities else None
    label_map, probabilities = ensemble.label_map(
        image.voxels, image.spacing, turns, branch, calibrated=calibrated, scratch_folder=kept_in
    )
    volumes.write(label_file, ensemble.keep_largest(label_map, largest), image)
    if probabilities is not None:
        volumes.write(_probability_file(label_file), probabilities, image)


def _targets(
    source: pathlib.Path, output: pathlib.Path, images: Callable[[pathlib.Path], Mapping[str, tuple[pathlib.Path, ...]]]
) -> dict[pathlib.Path, tuple[pathlib.Path, ...]]:
    """Label file to write -> the files of its image, one or one per channel."""
    if source.is_dir():
        cases, files_below = images(source), set(volumes.find_all(source))
        if output.resolve() != source.resolve():
            outputs = {path for path in source.rglob("*") if path.resolve().is_relative_to(output.resolve())}
            cases = {name: files for name, files in cases.items() if outputs.isdisjoint(files)}
            files_below -= outputs
        others = len(files_below.difference(*cases.values()))
        if others:
            print(f"Skipping {counted(others, 'file')} not recognised as an image in this layout.")
        warn_all(_unreadable_formats(source))
    else:
        cases = {volumes.stem(source) if volumes.ending(source) else source.stem: (source,)}
    if not cases:
        raise InputError(f"{source}: contains no images; give a folder with {', '.join(volumes.ENDINGS)} files.")
    return {output / (name + (volumes.ending(files[0]) or PLAIN)): files for name, files in cases.items()}


def _unreadable_formats(folder: pathlib.Path) -> Iterator[str]:
    """A warning about volumes below a folder in formats that cannot be read."""
    below = [path.relative_to(folder) for path in sorted(folder.rglob("*"))]
    shown = [path.as_posix() for path in below if not any(part[0] == "." for part in path.parts)]
    unread = [name for name in shown if name.lower().endswith(volumes.UNSUPPORTED)]
    if unread:
        yield (
            f"{folder}: {few(unread)} are skipped, their format is not supported; convert them to "
            f"{', '.join(volumes.ENDINGS)}."
        )


def _missing(
    targets: Mapping[pathlib.Path, tuple[pathlib.Path, ...]], save_probabilities: bool
) -> dict[pathlib.Path, tuple[pathlib.Path, ...]]:
    """The targets with a missing file; prints how many others are skipped."""
    missing = {
        path: files
        for path, files in targets.items()
        if not path.exists() or (save_probabilities and not _probability_file(path).exists())
    }
    print(f"Skipping {counted(len(targets) - len(missing), 'image')} with existing label maps.")
    return missing


def _check_outputs(
    targets: Mapping[pathlib.Path, tuple[pathlib.Path, ...]], save_probabilities: bool, may_exist: bool
) -> None:
    """Raises InputError if an output file is an input image, occurs twice, exists, or has too long a name."""
    inputs = {path.resolve() for files in targets.values() for path in files}
    seen = set()
    for path in (*targets, *(map(_probability_file, targets) if save_probabilities else ())):
        volumes.check_name(path)
        if len(path.name.encode()) > MOST_BYTES:
            raise InputError(f"{path}: is too long for a file name; rename the image.")
        if path.resolve() in inputs:
            raise InputError(f"{path}: is one of the images; give an --output outside --input.")
        if path in seen:
            raise InputError(f"{path}: would be both a label map and probabilities; rename the image of that name.")
        if path.exists() and not may_exist:
            raise InputError(f"{path}: exists; give another --output, --overwrite or --skip_existing.")
        seen.add(path)


def _probability_file(label_file: pathlib.Path) -> pathlib.Path:
    """NAME_prob in the format of the label map; NIfTI is compressed."""
    ending = volumes.ending(label_file)
    return label_file.with_name(f"{volumes.stem(label_file)}_prob{PLAIN if ending.lower() == '.nii' else ending}")
