"""Segments NIfTI files with a trained run: label maps on the input's own grid.

python -m msl_jax.predict --workdir=RUN --input=FILE_OR_FOLDER --output=FOLDER
"""

from collections import Counter
import pathlib

from absl import flags
from etils import epath

from msl_jax import command, experiment, inference
from msl_jax.checks import Refused
from msl_jax.data import builder, nifti


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
      source: a NIfTI file, or a folder searched through; files of the data set's layout that are no images are
        passed over.
      output: the folder to write into; below it names and sub-folders are those of the input.
      branch: "teacher" or "student"; None for the student, or the teacher where it is alone.
      save_probabilities: also write NAME_prob.nii.gz, float32 (x, y, slice, class), background first.
      overwrite: replace what is there.

    Returns:
      The label maps' paths.

    Raises:
      Refused: there is nothing to segment, a file is no 3-D image, or an output exists.
    """
    config = experiment.read_config(workdir)
    branch = branch or list(experiment.method_of(config).branches())[-1]
    segmenter, variables, _ = inference.load(workdir, config.eval.checkpoint, branch)
    targets = _targets(source, output, builder.READERS[config.data.layout].not_images)
    if not overwrite:
        for label_file in targets.values():
            for path in (label_file, _probability_file(label_file)) if save_probabilities else (label_file,):
                if path.exists():
                    raise Refused(f"{path}: exists; give another --output, or --overwrite.")
    for image_file, label_file in targets.items():
        volume = nifti.read_image(image_file)
        probabilities = segmenter.probabilities(variables, volume.voxels)[branch]
        nifti.write(label_file, segmenter.label_map(probabilities), volume)
        if save_probabilities:
            nifti.write(_probability_file(label_file), probabilities, volume)
        structures = ", ".join(f"{name}={value}" for name, value in config.data.classes.items())
        print(f"{label_file}  {branch}, {structures}", flush=True)
    return list(targets.values())


def _targets(
    source: pathlib.Path, output: pathlib.Path, not_images: tuple[str, ...]
) -> dict[pathlib.Path, pathlib.Path]:
    """Image file -> label file to write."""
    if source.is_dir():
        found = nifti.find_all(source)
        if output.resolve() != source.resolve():
            found = [path for path in found if not path.resolve().is_relative_to(output.resolve())]
        files = [path for path in found if not nifti.stem(path).endswith(not_images)]
        if len(files) < len(found):
            print(f"Passing over {len(found) - len(files)} files whose names end in {', '.join(not_images)}.")
        targets = {path: output / path.relative_to(source) for path in files}
    else:
        targets = {source: output / source.name}
    if not targets:
        raise Refused(f"{source}: holds no NIfTI images (names that end in .nii.gz or .nii).")
    inputs = {path.resolve() for path in targets}
    twins = Counter(_probability_file(label_file) for label_file in targets.values())
    for label_file in targets.values():
        if twins[_probability_file(label_file)] > 1:
            raise Refused(f"{label_file}: lies beside another image of that name; keep .nii or .nii.gz of it.")
        if label_file.resolve() in inputs:
            raise Refused(f"{label_file}: is one of the images; give an --output apart from --input.")
    return targets


def _probability_file(label_file: pathlib.Path) -> pathlib.Path:
    return label_file.with_name(f"{nifti.stem(label_file)}_prob.nii.gz")


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
    INPUT = flags.DEFINE_string("input", None, "NIfTI file, or a folder that is searched through.")
    OUTPUT = flags.DEFINE_string("output", None, "Folder for the label maps.")
    BRANCH = flags.DEFINE_enum("branch", None, ["student", "teacher"], "The student where there is one, unless given.")
    SAVE_PROBABILITIES = flags.DEFINE_bool("save_probabilities", False, "Also write NAME_prob.nii.gz.")
    OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace what is there.")
    flags.mark_flags_as_required(["workdir", "input", "output"])
    command.run(main)
