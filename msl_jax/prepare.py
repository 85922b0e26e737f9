"""Checks a data set, builds it and says who is in which role, before anything trains.

python -m msl_jax.prepare --config=configs/acdc.py [--config.data.source=FOLDER]
"""

from collections import Counter

from absl import flags
from ml_collections import config_flags
import numpy as np

from msl_jax import command
from msl_jax.experiment import Experiment, open_experiment


def summary(experiment: Experiment) -> str:
    """What the data set holds and what the config makes of it, as text."""
    entries = experiment.data.entries
    groups = experiment.data.groups()
    spacing = np.array([entry.spacing for entry in entries])
    lines = [
        f"{len(entries)} cases of {len(groups)} patients, {sum(entry.slices for entry in entries)} slices, "
        f"{sum(entry.annotated for entry in entries)} cases with a drawn annotation",
        f"spacing (slice, y, x) {_range(spacing)} {', '.join(sorted({entry.units for entry in entries}))}",
        f"structures {experiment.data.labels}, trained {experiment.config.data.classes.to_dict()}",
    ]
    for role, patients in {"strong": experiment.strong, "weak": experiment.weak(), **experiment.split}.items():
        if role != "train":
            counts = ", ".join(f"{n} {group}" for group, n in sorted(Counter(groups[p] for p in patients).items()))
            lines.append(f"{role:<11}{len(patients):>4} patients  {counts}")
    lines.append(f"strong: {', '.join(experiment.strong)}")
    return "\n".join(lines)


def _range(values: np.ndarray) -> str:
    return " x ".join(
        f"{low:g}" if low == high else f"{low:g}-{high:g}"
        for low, high in zip(values.min(0), values.max(0), strict=True)
    )


def main(_) -> None:
    """Builds and reports."""
    print(summary(open_experiment(CONFIG.value)))


if __name__ == "__main__":
    CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: configs/NAME.py[:ARG].", lock_config=True)
    flags.mark_flags_as_required(["config"])
    command.run(main)
