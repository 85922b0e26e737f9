"""From a config to everything it stands for: the data set, who is in which split, the method, the network."""

from collections.abc import Iterable
import dataclasses

from ml_collections import ConfigDict

from msl_jax.data import builder, splits
from msl_jax.data.annotator import Annotator
from msl_jax.data.weak_labels import Style
from msl_jax.errors import InputError
from msl_jax.methods.table import Method
from msl_jax.settings.resolved import preparation_of


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """A config that was checked and opened.

    Attributes:
      config: with every default filled in; `config.json` of the run.
      data: the data set, built.
      split: "train", "validation", "test" -> patients.
      strong: training patients whose full masks are used; the others are the weak set.
      recipes: patient -> where its weak labels come from, in place of config.data.weak.
      method: terms, weights and whatever else it sets.
    """

    config: ConfigDict
    data: builder.Dataset
    split: splits.Split
    strong: list[str]
    recipes: dict[str, str]
    method: Method

    def weak(self) -> list[str]:
        """The training patients that are not strong."""
        return [patient for patient in self.split["train"] if patient not in self.strong]

    def roles(self) -> dict[str, list[str]]:
        """Patients by role: "train", "validation", "test"; of the first, "strong" and "weak"."""
        return {**self.split, "strong": self.strong, "weak": self.weak()}

    def entries(self, patients: list[str]) -> list[builder.Entry]:
        """The cases of these patients."""
        return self.data.of_patients(patients)

    def structures(self, patients: list[str]) -> dict[str, int]:
        """Name -> class of every trained structure that a mask of these patients holds."""
        return structures_of(self.config, self.entries(patients))

    def annotator(self) -> Annotator:
        """Where the weak labels of the training patients come from."""
        data = self.config.data
        return Annotator(data.weak, Style(data.weak_background, data.weak_radius, data.weak_every), self.recipes)

    def training_sets(self, method: Method) -> dict[str, list[builder.Entry]]:
        """The sets that a method uses: "strong", "weak" -> cases."""
        patients = {"strong": self.strong, "weak": self.weak()}
        if "weak" in method.sets() and not self.weak():
            all_strong = f"method '{self.config.method.name}'" if method.all_strong else "config.data.strong"
            raise InputError(f"{all_strong}: takes every training patient's mask and leaves none weak; give fewer.")
        return {name: self.entries(patients[name]) for name in method.sets()}


def structures_of(config: ConfigDict, entries: Iterable[builder.Entry]) -> dict[str, int]:
    """Name -> class of every structure of a filled-in config that a mask of these cases holds."""
    class_of_value = preparation_of(config).class_of_value()
    held = {int(class_of_value[value]) for entry in entries for value in entry.values}
    return {name: c for c, name in enumerate(config.data.classes, start=1) if c in held}
