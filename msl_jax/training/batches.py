"""The batches of a stage, sharded over the devices."""

from collections.abc import Iterator

import jax
from jax.sharding import NamedSharding

from msl_jax.data import pipeline
from msl_jax.experiments.experiment import Experiment
from msl_jax.methods.table import Method
from msl_jax.settings.objects import preparation_of
from msl_jax.training.step import Batch


def batches(experiment: Experiment, method: Method, start: int, stop: int, sharding: NamedSharding) -> Iterator[Batch]:
    """The batches of steps `start` to `stop - 1`, each sharded over all devices of all hosts."""
    config = experiment.config
    dataset = pipeline.batches(
        experiment.data,
        experiment.training_sets(method),
        experiment.batch_sizes(method),
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
