"""Scores predictions or a run: Dice, HD95 and ASSD of every case, in 3-D.

For a run it also measures calibration, which needs probabilities.

python -m msl_jax.evaluate --predictions=FOLDER --references=FOLDER --labels=LV=3,MYO=2 --output=RESULTS.json
python -m msl_jax.evaluate --workdir=RUN --config=configs/acdc.py [--config.KEY=VALUE ...] --output=RESULTS.json
"""

import pathlib

from absl import flags
from etils import epath

from msl_jax import command
from msl_jax.errors import InputError
from msl_jax.evaluation import results
from msl_jax.evaluation.folders import evaluate_folders
from msl_jax.evaluation.test_split import evaluate_run
from msl_jax.settings.rules import parse_labels

FOLDERS, RUN = ("predictions", "references", "labels"), ("workdir", "config")
"""Flags that go together."""


def main(_) -> None:
    """Scores a folder of predictions, or a run on the test split of an experiment."""
    output = epath.Path(OUTPUT.value)
    results.check_json(output)
    if flags_given() == RUN:
        summary, rows = evaluate_run(CONFIG.value, epath.Path(WORKDIR.value))
    else:
        predictions, references = (pathlib.Path(flag.value) for flag in (PREDICTIONS, REFERENCES))
        labels = parse_labels(LABELS.value or "", "--labels")
        summary, rows = evaluate_folders(predictions, references, labels, SUFFIX.value, UNLABELED.value)
    results.write(summary, rows, output)
    print(results.markdown(summary))


def flags_given() -> tuple[str, ...]:
    """The group of flags that is given, FOLDERS or RUN; raises InputError if some are missing or too many."""
    given = {name for name in (*FOLDERS, *RUN) if flags.FLAGS[name].value is not None}
    for names in (FOLDERS, RUN):
        if given == set(names):
            return names
    required = RUN if given and given <= set(RUN) else FOLDERS
    missing = [name for name in required if name not in given]
    problem = f"--{', --'.join(missing)}: missing" if missing else f"--{', --'.join(sorted(given))}: too many"
    raise InputError(f"{problem}; give --{', --'.join(FOLDERS)}, or else --{' and --'.join(RUN)}.")


if __name__ == "__main__":
    PREDICTIONS = command.define_path("predictions", None, "Folder of predicted label maps, searched recursively.")
    REFERENCES = command.define_path(
        "references", None, "Folder of reference label maps, searched recursively; files pair by name."
    )
    LABELS = flags.DEFINE_string("labels", None, "Structures to score and their values in the files: LV=3,MYO=2.")
    OUTPUT = command.define_path("output", None, "JSON file for the results; the cases go into a CSV file beside it.")
    SUFFIX = flags.DEFINE_string("reference_suffix", "", "Suffix of the references' names after the prediction's: _gt.")
    UNLABELED = flags.DEFINE_integer(
        "unlabeled",
        None,
        "Value of unlabelled voxels of the references, which are not scored; default 255, unless a structure has it.",
        lower_bound=0,
        upper_bound=255,
    )
    WORKDIR = command.define_path(
        "workdir", None, "Folder of a run to score with --config, instead of --predictions, --references and --labels."
    )
    CONFIG = command.define_config("The experiment with the test split for the run")
    flags.mark_flag_as_required("output")
    command.run(main)
