"""Where the weak labels of a slice come from: a recipe, or what a person drew."""

from collections.abc import Mapping
import dataclasses

import numpy as np

from msl_jax.data import weak_labels
from msl_jax.data.builder import Entry
from msl_jax.data.weak_labels import DRAWN, RECIPES, Style, Where


@dataclasses.dataclass(frozen=True)
class Annotator:
    """Where weak labels come from.

    Masks are resized before a recipe sees them: resizing the weak label instead could lose a core of a few pixels.

    Attributes:
      recipe: a key of weak_labels.RECIPES, or DRAWN.
      style: of the recipes.
      of_patient: patient -> recipe, for patients with a recipe of their own.
    """

    recipe: str
    style: Style
    of_patient: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def recipe_of(self, patient: str) -> str:
        """A key of weak_labels.RECIPES, or DRAWN."""
        return self.of_patient.get(patient, self.recipe)

    def __call__(self, entry: Entry, z: int, label: np.ndarray, annotation: np.ndarray) -> np.ndarray:
        """The weak label of slice `z` of a case.

        Args:
          entry: the case.
          z: the slice's number.
          label: int32 (y, x), the mask's classes at the network's size, UNLABELED where there is none.
          annotation: int32, the drawn annotation's classes at native size, UNLABELED where there is none.

        Returns:
          int32 (y, x) like `label`.
        """
        recipe = self.recipe_of(entry.patient)
        if recipe != DRAWN:
            return RECIPES[recipe](label, Where(entry.name, z, entry.slices), self.style)
        return weak_labels.resize(annotation, label.shape) if entry.annotated else label
