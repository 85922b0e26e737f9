"""The batches of a stage, sharded over the devices."""

from collections.abc import Iterator

import jax
from jax.sharding import NamedSharding

from msl_jax.data import pipeline
from msl_jax.data.builder import Entry
from msl_jax.experiments.experiment import Experiment
from msl_jax.methods.table import Method
from msl_jax.settings.resolved import preparation_of
from msl_jax.training.step import Batch


def sets_and_sizes(experiment: Experiment, method: Method) -> tuple[dict[str, list[Entry]], dict[str, int]]:
    """The sets of cases that a method trains on, and how many slices of each are in a batch."""
    sets = experiment.training_sets(method)
    return sets, {name: experiment.config.train[f"{name}_batch"] for name in sets}


def batches(experiment: Experiment, method: Method, start: int, stop: int, sharding: NamedSharding) -> Iterator[Batch]:
    """The batches of steps `start` to `stop - 1`, each sharded over all devices of all hosts."""
    config = experiment.config
    sets, sizes = sets_and_sizes(experiment, method)
    dataset = pipeline.batches(
        experiment.data,
        sets,
        sizes,
        preparation_of(config),
        experiment.annotator(),
        config.data.augment.to_dict(),
        ahead=config.data.batches_ahead,
        seed=config.seed,
        start=start,
        stop=stop,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    for batch in dataset.as_numpy_iterator():
        yield jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
