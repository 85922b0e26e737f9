"""Checks a data set, builds it and says what is in it and who is in which role, before anything trains.

Every case that cannot be used is named, each with what is wrong and what to do; what looks odd is a warning.

python -m msl_jax.prepare --config=configs/acdc.py [--config.data.source=FOLDER] [--output=FOLDER]
"""

from absl import flags
from etils import epath

from msl_jax import command
from msl_jax.errors import InputError
from msl_jax.experiments.opening import open_experiment
from msl_jax.experiments.survey import oddities, report, survey
from msl_jax.pictures import plots
from msl_jax.pictures.cases import page
from msl_jax.system import atomic
from msl_jax.system.paths import check_output


def main(_) -> None:
    """Builds and reports."""
    output = epath.Path(OUTPUT.value)
    check_output(output)
    output.mkdir(parents=True, exist_ok=True)
    try:
        experiment = open_experiment(CONFIG.value)
    except InputError as refused:
        atomic.write_text(
            output / "report.txt", "".join(f"error: {problem}\n" for problem in str(refused).splitlines())
        )
        raise
    findings = survey(experiment)
    text = "\n".join([report(experiment, findings), *(f"warning: {odd}" for odd in oddities(experiment, findings))])
    print(text)
    atomic.write_text(output / "report.txt", text + "\n")
    plots.save(page(experiment, findings), output / "cases.png")
    print(f"\nWritten to {output}")


if __name__ == "__main__":
    CONFIG = command.define_config()
    OUTPUT = command.define_path(
        "output", "runs/prepare", "Folder for what it finds, report.txt, and a page of pictures, cases.png."
    )
    flags.mark_flags_as_required(["config"])
    command.run(main)
