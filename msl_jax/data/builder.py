"""Builds a data set once into the TFDS cache and opens what was built.

What is built holds every slice at its native size with the masks' own values, and knows nothing of splits, classes,
weak labels or image sizes: those are settings of a run. The build's name carries a hash of the source's contents and
of the code that reads it, so that a changed source is built anew and an unchanged one never twice.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import hashlib
import io
import pathlib
import sys
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from msl_jax.checks import Refused
from msl_jax.data import acdc, nifti, phantom
from msl_jax.data import case as case_lib
from msl_jax.data.case import UNLABELED, Case, Reader

READERS: Mapping[str, Reader] = {"acdc": acdc.READER, "phantom": phantom.READER}
SPLIT = "slices"
QUANTILES = np.linspace(0, 1, 1001)
"""Each slice carries these quantiles of its volume's intensities: enough for any percentile clip without the volume."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where the slices of one case lie: records `first` to `first + slices - 1`, in the volume's order."""

    name: str
    patient: str
    group: str
    phase: str
    frame: int
    first: int
    slices: int
    annotated: bool
    spacing: tuple[float, float, float]
    units: str


@dataclasses.dataclass(frozen=True, eq=False)
class Built:
    """A data set that was built: its cases and random access to its slices.

    Attributes:
      labels: name -> value of every structure.
      contents: a hash of what the source held; equal wherever it lies.
      entries: the cases, in the reader's order.
      records: index -> serialized slice, read from disk.
      features: the TFDS features that parse a record, in eager and in graph mode.
    """

    labels: Mapping[str, int]
    contents: str
    entries: tuple[Entry, ...]
    records: Any
    features: tfds.features.FeaturesDict

    def groups(self) -> dict[str, str]:
        """Patient -> group."""
        return {entry.patient: entry.group for entry in self.entries}

    def of_patients(self, patients: list[str]) -> list[Entry]:
        """The cases of these patients, in order."""
        return [entry for entry in self.entries if entry.patient in set(patients)]

    def case(self, entry: Entry) -> Case:
        """Reads one case back whole, as its reader gave it."""
        indices = range(entry.first, entry.first + entry.slices)
        slices = [self.features.deserialize_example_np(record) for record in self.records.__getitems__(list(indices))]
        volumes = {key: np.stack([s[key] for s in slices]) for key in ("image", "mask", "annotation")}
        return Case(
            name=entry.name,
            patient=entry.patient,
            group=entry.group,
            phase=entry.phase,
            frame=entry.frame,
            image=volumes["image"],
            mask=volumes["mask"],
            annotation=volumes["annotation"] if entry.annotated else None,
            spacing=entry.spacing,
            units=entry.units,
        )


class MslSlices(tfds.core.GeneratorBasedBuilder):
    """TFDS builder over one reader: an example a slice, in the reader's order."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, layout: str, source: str, name: str, **kwargs: Any):
        self._layout = layout
        self._source = source
        super().__init__(config=name, **kwargs)

    def _create_builder_config(self, builder_config, version):
        return tfds.core.BuilderConfig(name=builder_config, version=self.VERSION)

    def _info(self) -> tfds.core.DatasetInfo:
        def plane(dtype):
            return tfds.features.Tensor(shape=(None, None), dtype=dtype, encoding=tfds.features.Encoding.ZLIB)

        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": plane(np.float32),
                    "mask": plane(np.uint8),
                    "annotation": plane(np.uint8),
                    "quantiles": tfds.features.Tensor(shape=QUANTILES.shape, dtype=np.float32),
                    "name": tfds.features.Text(),
                    "patient": tfds.features.Text(),
                    "phase": tfds.features.Text(),
                    "frame": np.int32,
                    "slice": np.int32,
                    "slices": np.int32,
                    "spacing": tfds.features.Tensor(shape=(3,), dtype=np.float32),
                }
            ),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(entries=[]),
        )

    def _split_generators(self, dl_manager):
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        first = 0
        for case in READERS[self._layout].read(self._source):
            yield from ((first + z, example) for z, example in enumerate(_slices(case)))
            entry = Entry(
                name=case.name,
                patient=case.patient,
                group=case.group,
                phase=case.phase,
                frame=case.frame,
                first=first,
                slices=len(case.image),
                annotated=case.annotation is not None,
                spacing=case.spacing,
                units=case.units,
            )
            self.info.metadata["entries"].append(dataclasses.asdict(entry))
            first += entry.slices


def build(layout: str, source: str, cache: str | None = None) -> Built:
    """Opens the data set, building it first where this source was not built before.

    Args:
      layout: a name in READERS.
      source: what that reader takes, for most the data set's folder.
      cache: TFDS's data_dir; None for TFDS's own default.

    Raises:
      Refused: the layout is unknown, or the reader refuses the source.
    """
    if layout not in READERS:
        raise Refused(f"config.data.layout: there is no '{layout}'; there are {', '.join(READERS)}.")
    tfds.disable_progress_bar()

    contents = _short_hash(READERS[layout].fingerprint(source).encode())
    name = f"{layout}_{_short_hash(contents.encode(), *_code(layout))}"

    def opened() -> MslSlices:
        return MslSlices(layout=layout, source=source, name=name, data_dir=cache, file_format="array_record")

    builder = opened()
    if not pathlib.Path(builder.data_dir).exists():
        print(f"Building the data set from {source} into {builder.data_dir} ...", file=sys.stderr, flush=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except FileExistsError:  # another process was building the same and came first
        builder = opened()
    entries = tuple(Entry(**{**e, "spacing": tuple(e["spacing"])}) for e in builder.info.metadata["entries"])
    records = builder.as_data_source(SPLIT, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    return Built(READERS[layout].labels, contents, entries, records, builder.info.features)


def _slices(case: Case) -> Iterator[dict[str, Any]]:
    quantiles = np.quantile(case.image, QUANTILES).astype(np.float32)
    annotation = np.full_like(case.mask, UNLABELED) if case.annotation is None else case.annotation
    for z in range(len(case.image)):
        yield {
            "image": case.image[z],
            "mask": case.mask[z],
            "annotation": annotation[z],
            "quantiles": quantiles,
            "name": case.name,
            "patient": case.patient,
            "phase": case.phase,
            "frame": case.frame,
            "slice": z,
            "slices": len(case.image),
            "spacing": np.asarray(case.spacing, np.float32),
        }


def _code(layout: str) -> list[bytes]:
    """The source text of whatever decides what is built."""
    modules = (__name__, case_lib.__name__, nifti.__name__, READERS[layout].read.__module__)
    return [pathlib.Path(sys.modules[module].__file__).read_bytes() for module in modules]


def _short_hash(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]
