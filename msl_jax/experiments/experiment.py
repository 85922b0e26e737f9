"""An experiment: a config with its data set, its patients' roles and its method."""

from collections.abc import Iterable, Mapping
import dataclasses

from ml_collections import ConfigDict

from msl_jax.data import builder, splits
from msl_jax.data.annotator import Annotator
from msl_jax.data.weak_labels import Style
from msl_jax.experiments.planning import Settled
from msl_jax.methods.losses import union_label
from msl_jax.methods.table import Method
from msl_jax.settings.objects import preparation_of


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """A validated config with its opened data set.

    Attributes:
      config: with all defaults filled in; the run's config.json.
      data: the built data set.
      split: "train", "validation", "test" -> patients.
      strong: training patients whose masks are used (full ones, unless listed by name); the others are weak.
      recipes: patient -> recipe of its weak labels, if it differs from config.data.weak.
      method: the method with the config's settings.
      settled: the settings that were "auto", with reasons.
      unannotated: patient -> classes that nobody annotated in its masks and drawn annotations.
    """

    config: ConfigDict
    data: builder.Dataset
    split: splits.Split
    strong: list[str]
    recipes: dict[str, str]
    method: Method
    settled: tuple[Settled, ...] = ()
    unannotated: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def weak(self) -> list[str]:
        """The training patients that are not strong."""
        return [patient for patient in self.split["train"] if patient not in self.strong]

    def roles(self) -> dict[str, list[str]]:
        """Role -> patients: "train", "validation", "test", and the two parts of "train": "strong", "weak"."""
        return {**self.split, "strong": self.strong, "weak": self.weak()}

    def entries(self, patients: list[str]) -> list[builder.Entry]:
        """The cases of these patients."""
        return self.data.of_patients(patients)

    def structures(self, patients: list[str]) -> dict[str, int]:
        """Name -> class of the trained structures present in masks of these patients."""
        return structures_of(self.config, self.entries(patients))

    def scored(self) -> dict[str, int]:
        """Name -> class of the structures to score: those of the test cases, in a cross-validation of all folds'."""
        return self.structures([*self.split["test"], *(self.strong if self.config.data.fold else [])])

    def annotator(self) -> Annotator:
        """The source of the training patients' weak labels."""
        data = self.config.data
        return Annotator(data.weak, Style(data.weak_background, data.weak_radius, data.weak_every), self.recipes)

    def unions(self) -> tuple[tuple[int, ...], ...]:
        """Each set of classes that background may be in some patient's labels, because nobody annotated them."""
        return tuple(sorted({(0, *classes) for classes in self.unannotated.values()}))

    def background_of(self, patient: str) -> int:
        """The label of a patient's background: 0, or that of a union."""
        classes = self.unannotated.get(patient)
        return union_label(self.unions().index((0, *classes))) if classes else 0

    def training_sets(self, method: Method) -> dict[str, list[builder.Entry]]:
        """The sets that a method reads: "strong", "weak" -> cases."""
        return {name: self.entries(self.roles()[name]) for name in method.loaded_sets()}

    def batch_sizes(self, method: Method) -> dict[str, int]:
        """Set -> number of its slices in a batch, over all devices."""
        return {name: self.config.train[f"{name}_batch"] for name in method.loaded_sets()}


def structures_of(config: ConfigDict, entries: Iterable[builder.Entry]) -> dict[str, int]:
    """Name -> class of the structures of a filled-in config present in masks of these cases."""
    class_of_value = preparation_of(config).class_of_value()
    present = {int(class_of_value[value]) for entry in entries for value in entry.values}
    return {name: c for c, name in enumerate(config.data.classes, start=1) if c in present}
