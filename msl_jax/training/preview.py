"""Checks and shows a data set and its splits before training."""

from etils import epath
from ml_collections import ConfigDict

from msl_jax.errors import InputError
from msl_jax.experiments.opening import open_experiment
from msl_jax.experiments.planning import lines
from msl_jax.experiments.survey import oddities, report, survey
from msl_jax.pictures import plots
from msl_jax.pictures.cases import page
from msl_jax.system import atomic
from msl_jax.system.paths import check_output
from msl_jax.training.trial import trial


def prepare(config: ConfigDict, output: epath.Path, *, timed: bool = True) -> None:
    """Checks and builds the data set of a config; writes report.txt, which is also printed, and cases.png.

    Args:
      config: as returned by `settings.load`.
      output: the folder to write to.
      timed: also take a few training steps, and say how long training will take.

    Raises:
      InputError: settings or cases are invalid, one line each, also in report.txt.
    """
    check_output(output)
    output.mkdir(parents=True, exist_ok=True)
    try:
        experiment = open_experiment(config)
    except InputError as error:
        atomic.write_text(output / "report.txt", "".join(f"error: {problem}\n" for problem in str(error).splitlines()))
        raise
    findings = survey(experiment)
    warnings = [f"warning: {text}" for text in oddities(experiment, findings)]
    settled = ["", *lines(experiment.settled), ""] if experiment.settled else []
    text = "\n".join([report(experiment, findings), *settled, *warnings])
    print(text, flush=True)
    atomic.write_text(output / "report.txt", text + "\n")
    plots.save(page(experiment, findings), output / "cases.png")
    if timed:
        cost = str(trial(experiment))
        print(f"\n{cost}")
        atomic.write_text(output / "report.txt", f"{text}\n\n{cost}\n")
    print(f"\nWritten to {output}")
