"""From predictions to tables and pictures: Dice, HD95 and ASSD of every case, in 3-D.

A run's own test split is also measured for calibration, since there the probabilities are known.

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
    """Compares two folders, or scores a run on the test split of an experiment."""
    output = epath.Path(OUTPUT.value)
    results.check_json(output)
    if flags_given() == RUN:
        summary, rows = evaluate_run(CONFIG.value, epath.Path(WORKDIR.value))
    else:
        predictions, references = (pathlib.Path(flag.value) for flag in (PREDICTIONS, REFERENCES))
        labels = parse_labels(LABELS.value or "", "--labels")
        summary, rows = evaluate_folders(predictions, references, labels, SUFFIX.value, OPEN.value)
    results.write(summary, rows, output)
    print(results.markdown(summary))


def flags_given() -> tuple[str, ...]:
    """Which flags say what to score, FOLDERS or RUN; raises InputError where some are missing or too many."""
    given = {name for name in (*FOLDERS, *RUN) if flags.FLAGS[name].value is not None}
    for names in (FOLDERS, RUN):
        if given == set(names):
            return names
    wanted = RUN if given and given <= set(RUN) else FOLDERS
    missing = [name for name in wanted if name not in given]
    wrong = f"--{', --'.join(missing)}: missing" if missing else f"--{', --'.join(sorted(given))}: too many"
    raise InputError(f"{wrong}; give --{', --'.join(FOLDERS)}, or else --{' and --'.join(RUN)}.")


if __name__ == "__main__":
    PREDICTIONS = command.define_path("predictions", None, "Folder of predicted label maps, searched through.")
    REFERENCES = command.define_path(
        "references", None, "Folder of reference label maps, searched through; files pair by name."
    )
    LABELS = flags.DEFINE_string("labels", None, "Structures to score and their values in the files: LV=3,MYO=2.")
    OUTPUT = command.define_path("output", None, "JSON file for the results; a CSV of the cases goes beside it.")
    SUFFIX = flags.DEFINE_string("reference_suffix", "", "What a reference's name has behind its prediction's: _gt.")
    OPEN = flags.DEFINE_integer(
        "unlabeled",
        None,
        "The value of voxels that references leave open, which are not scored; 255, unless a structure has it.",
        lower_bound=0,
        upper_bound=255,
    )
    WORKDIR = command.define_path(
        "workdir", None, "Folder of a run to score with --config, in place of --predictions, --references and --labels."
    )
    CONFIG = command.define_config("The experiment whose test split the run is scored on")
    flags.mark_flag_as_required("output")
    command.run(main)
