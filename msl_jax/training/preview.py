"""A look at a data set and at who is in which role, before anything trains."""

from etils import epath
from ml_collections import ConfigDict

from msl_jax.errors import InputError
from msl_jax.experiments.opening import open_experiment
from msl_jax.experiments.survey import oddities, report, survey
from msl_jax.pictures import plots
from msl_jax.pictures.cases import page
from msl_jax.system import atomic
from msl_jax.system.paths import check_output


def prepare(config: ConfigDict, output: epath.Path) -> None:
    """Checks and builds the data set of a config, and writes what is in it: report.txt, also printed, and cases.png.

    Raises:
      InputError: a setting or a case cannot work; each is a line, which report.txt has as well.
    """
    check_output(output)
    output.mkdir(parents=True, exist_ok=True)
    try:
        experiment = open_experiment(config)
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
