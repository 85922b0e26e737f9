"""Writes a report of one or more runs as one self-contained HTML file.

python -m msl_jax.report --workdir=RUN [--workdir=RUN2 ...] [--output=FILE.html]
"""

import pathlib

from absl import flags
from etils import epath

from msl_jax import command
from msl_jax.errors import InputError
from msl_jax.evaluation.html_report import write


def main(_) -> None:
    """Writes the report of the given runs."""
    workdirs = [pathlib.Path(workdir) for workdir in WORKDIR.value]
    output = epath.Path(OUTPUT.value or workdirs[0] / "results" / "report.html")
    if output.suffix != ".html" or output.is_dir():
        raise InputError(f"--output={output}: is not an .html file; give one.")
    write(workdirs, output)


if __name__ == "__main__":
    WORKDIR = command.define_paths("workdir", "Folder of a run; repeat the flag for each run.")
    OUTPUT = command.define_path("output", None, "File to write; by default results/report.html of the first run.")
    flags.mark_flags_as_required(["workdir"])
    command.run(main)
