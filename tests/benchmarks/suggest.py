"""Whether a run is uncertain about the cases that it segments badly: the score of `msl_jax.suggest` against the error.

python tests/benchmarks/suggest.py --workdir RUN [RUN ...]

Over the test cases of each run, which must have been evaluated and whose data must still be there: Spearman's rank
correlation of 1 less the Dice of its last branch (mean over structures) with score, entropy and disagreement, as JSON.
"""

import argparse
import csv
import json
import statistics

from etils import epath
from scipy import stats

from msl_jax.data import builder
from msl_jax.evaluation.suggestions import uncertainty
from msl_jax.inference.segmenter import load_network
from msl_jax.runs.config import read_config
from msl_jax.settings.objects import source_of


def measure(workdir: epath.Path) -> dict[str, float]:
    """Measure -> rank correlation with the error."""
    config = read_config(workdir)
    data = builder.build(source_of(config), config.data.cache)
    segmenter, variables, _ = load_network(workdir, config.eval.checkpoint)
    rows = csv.DictReader((workdir / "results" / "test.csv").read_text().splitlines())
    dice = {
        row["case"]: statistics.mean(float(value) for column, value in row.items() if column.endswith("_dice"))
        for row in rows
        if row["branch"] == segmenter.branches[-1]
    }
    entries = [entry for entry in data.entries if entry.name in dice]
    cases = (data.case(entry) for entry in entries)
    uncertainties = [uncertainty([segmenter.probabilities(variables, case.image, case.spacing)]) for case in cases]
    errors = [1 - dice[entry.name] for entry in entries]
    measures = [name for name in ("score", "entropy", "disagreement") if getattr(uncertainties[0], name) is not None]
    return {
        "cases": len(entries),
        **{
            name: float(stats.spearmanr([getattr(d, name) for d in uncertainties], errors).statistic)
            for name in measures
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", nargs="+", required=True)
    for workdir in parser.parse_args().workdir:
        figures = measure(epath.Path(workdir))
        print(json.dumps({"run": workdir, **{k: round(v, 2) for k, v in figures.items()}}), flush=True)
