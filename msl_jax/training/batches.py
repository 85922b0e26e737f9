"""The batches of a stage, sharded over the devices."""

from collections.abc import Iterator, Mapping, Sequence
import os

import jax
from jax.sharding import NamedSharding

from msl_jax.data import pipeline
from msl_jax.data.ready import ReadyCase, make_ready
from msl_jax.errors import raise_all
from msl_jax.experiments.cache import writing
from msl_jax.experiments.experiment import Experiment
from msl_jax.methods.table import Method
from msl_jax.settings.objects import preparation_of
from msl_jax.training.augmentation import source_size
from msl_jax.training.step import Batch


def streams(experiment: Experiment, method: Method) -> dict[str, pipeline.Stream]:
    """The stream of patches of each set; prepares cases that are not ready yet.

    Raises:
      InputError: the cache is not writable, or labels have structures that the table says nobody annotated.
    """
    config, preparation, annotator = experiment.config, preparation_of(experiment.config), experiment.annotator()
    with writing(os.fspath(experiment.data.ready)):
        ready = {
            name: make_ready(experiment.data, entries, preparation, annotator)
            for name, entries in experiment.training_sets(method).items()
        }
    for cases in ready.values():
        _check_classes(experiment, cases)
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


def _check_classes(experiment: Experiment, cases: Sequence[ReadyCase]) -> None:
    """Raises InputError if a case has a labelled pixel of a structure that nobody annotated in its patient."""
    names = list(experiment.config.data.classes)
    problems = []
    for case in cases:
        missing = experiment.unannotated.get(case.entry.patient, ())
        present = [names[c - 1] for c in missing if any(of_map[:, c].any() for of_map in case.classes.values())]
        if present:
            problems.append(
                f"{case.entry.name}: has labels of {', '.join(present)}, which {experiment.config.data.table} leaves "
                "out of the patient's classes; add them there, or remove the labels."
            )
    raise_all(problems)


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
