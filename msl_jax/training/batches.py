"""The batches of a stage, sharded over the devices."""

from collections.abc import Iterator, Mapping
import os

import jax
from jax.sharding import NamedSharding

from msl_jax.data import pipeline
from msl_jax.data.ready import make_ready
from msl_jax.experiments.cache import writing
from msl_jax.experiments.experiment import Experiment
from msl_jax.methods.table import Method
from msl_jax.settings.objects import preparation_of
from msl_jax.training.augmentation import source_size
from msl_jax.training.step import Batch


def streams(experiment: Experiment, method: Method) -> dict[str, pipeline.Stream]:
    """The stream of patches of each set; prepares cases that are not ready yet.

    Raises:
      InputError: the cache is not writable.
    """
    config, preparation, annotator = experiment.config, preparation_of(experiment.config), experiment.annotator()
    with writing(os.fspath(experiment.data.ready)):
        ready = {
            name: make_ready(experiment.data, entries, preparation, annotator)
            for name, entries in experiment.training_sets(method).items()
        }
    source = source_size(preparation.size, config.data.augment.to_dict())
    return {
        name: pipeline.Stream(
            name,
            cases,
            preparation.size,
            source,
            config.data.foreground,
            config.seed,
            [experiment.background_of(case.entry.patient) for case in cases],
        )
        for name, cases in ready.items()
    }


def batches(
    experiment: Experiment,
    method: Method,
    streams: Mapping[str, pipeline.Stream],
    start: int,
    stop: int,
    sharding: NamedSharding,
) -> Iterator[Batch]:
    """The batches of steps `start` to `stop - 1` from a stage's streams, each sharded over all devices of all hosts."""
    dataset = pipeline.batches(
        streams,
        experiment.batch_sizes(method),
        ahead=experiment.config.data.batches_ahead,
        start=start,
        stop=stop,
        host=jax.process_index(),
        hosts=jax.process_count(),
    )
    for batch in dataset.as_numpy_iterator():
        yield jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
