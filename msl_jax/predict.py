"""Segments files of volumes with a trained run: label maps on the input's own grid.

python -m msl_jax.predict --workdir=RUN --input=FILE_OR_FOLDER --output=FOLDER
"""

from collections.abc import Callable, Mapping
import pathlib

from absl import flags
from etils import epath

from msl_jax import command, experiment, inference
from msl_jax.checks import Refused
from msl_jax.data import builder, volumes
from msl_jax.data.case import across, back


def predict(
    workdir: epath.Path,
    source: pathlib.Path,
    output: pathlib.Path,
    *,
    branch: str | None = None,
    save_probabilities: bool = False,
    overwrite: bool = False,
) -> list[pathlib.Path]:
    """Writes a label map for each image, and probabilities on request, one volume at a time.

    Args:
      workdir: the run's folder.
      source: an image, or a folder in which images are found as in the data set's layout.
      output: the folder to write into; below it names and sub-folders are those of the input.
      branch: "teacher" or "student"; None for the student, or the teacher where it is alone.
      save_probabilities: also write NAME_prob, .nii.gz or as the input ends, float32 (x, y, slice, class), background
        first.
      overwrite: replace what is there.

    Returns:
      The label maps' paths.

    Raises:
      Refused: there is nothing to segment, a file is no image or has other channels, or an output exists.
    """
    config = experiment.read_config(workdir)
    branch = branch or list(experiment.method_of(config).branches())[-1]
    segmenter, variables, _ = inference.load(workdir, config.eval.checkpoint, branch)
    targets = _targets(source, output, builder.READERS[config.data.layout].images)
    if not overwrite:
        for label_file in targets:
            for path in (label_file, _probability_file(label_file)) if save_probabilities else (label_file,):
                if path.exists():
                    raise Refused(f"{path}: exists; give another --output, or --overwrite.")
    for label_file, files in targets.items():
        image = volumes.read_channels(files)
        if image.voxels.shape[-1] != config.data.channels:
            raise Refused(
                f"{files[0]}: has {image.voxels.shape[-1]} channels, the run was trained on {config.data.channels}; "
                "give images of the same kind."
            )
        probabilities = segmenter.probabilities(variables, across(image.voxels, config.data.axis))[branch]
        volumes.write(label_file, back(segmenter.label_map(probabilities), config.data.axis), image)
        if save_probabilities:
            volumes.write(_probability_file(label_file), back(probabilities, config.data.axis), image)
        structures = ", ".join(f"{name}={value}" for name, value in config.data.classes.items())
        print(f"{label_file}  {branch}, {structures}", flush=True)
    return list(targets)


def _targets(
    source: pathlib.Path, output: pathlib.Path, images: Callable[[pathlib.Path], Mapping[str, tuple[pathlib.Path, ...]]]
) -> dict[pathlib.Path, tuple[pathlib.Path, ...]]:
    """Label file to write -> the files of its image, one or one a channel."""
    if source.is_dir():
        cases, found = images(source), volumes.find_all(source)
        if output.resolve() != source.resolve():
            found = [path for path in found if not path.resolve().is_relative_to(output.resolve())]
            cases = {name: files for name, files in cases.items() if set(files) <= set(found)}
        others = len(found) - sum(map(len, cases.values()))
        if others:
            print(f"Passing over {others} files that are no images in this layout.")
    else:
        cases = {volumes.stem(source): (source,)}
    if not cases:
        raise Refused(f"{source}: holds no images (names that end in {' or '.join(volumes.ENDINGS)}).")
    targets = {output / (name + volumes.ending(files[0])): files for name, files in cases.items()}
    inputs = {path.resolve() for files in cases.values() for path in files}
    for label_file in targets:
        if label_file.resolve() in inputs:
            raise Refused(f"{label_file}: is one of the images; give an --output apart from --input.")
    return targets


def _probability_file(label_file: pathlib.Path) -> pathlib.Path:
    """NAME_prob in the format of the label map, NIfTI compressed."""
    ending = volumes.ending(label_file)
    return label_file.with_name(f"{volumes.stem(label_file)}_prob{'.nii.gz' if ending == '.nii' else ending}")


def main(_) -> None:
    """Segments what --input names."""
    predict(
        epath.Path(WORKDIR.value).expanduser(),
        pathlib.Path(INPUT.value).expanduser(),
        pathlib.Path(OUTPUT.value).expanduser(),
        branch=BRANCH.value,
        save_probabilities=SAVE_PROBABILITIES.value,
        overwrite=OVERWRITE.value,
    )


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
    INPUT = flags.DEFINE_string("input", None, "An image, or a folder that is searched through.")
    OUTPUT = flags.DEFINE_string("output", None, "Folder for the label maps.")
    BRANCH = flags.DEFINE_enum("branch", None, ["student", "teacher"], "The student where there is one, unless given.")
    SAVE_PROBABILITIES = flags.DEFINE_bool("save_probabilities", False, "Also write NAME_prob.")
    OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace what is there.")
    flags.mark_flags_as_required(["workdir", "input", "output"])
    command.run(main)
