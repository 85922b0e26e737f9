"""Chooses the weak label of a slice: a recipe, or the drawn annotation."""

from collections.abc import Mapping
import dataclasses

import numpy as np

from msl_jax.data import weak_labels
from msl_jax.data.builder import Entry
from msl_jax.data.weak_labels import DRAWN, RECIPES, SlicePosition, Style


@dataclasses.dataclass(frozen=True)
class Annotator:
    """Makes weak labels.

    Recipes get resampled masks: resampling their result instead could lose annotations of a few pixels.

    Attributes:
      recipe: a key of weak_labels.RECIPES, or DRAWN.
      style: of the recipes.
      of_patient: patient -> recipe, for patients with another recipe.
    """

    recipe: str
    style: Style
    of_patient: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def recipe_of(self, patient: str) -> str:
        """The patient's recipe: a key of weak_labels.RECIPES, or DRAWN."""
        return self.of_patient.get(patient, self.recipe)

    def __call__(self, entry: Entry, z: int, label: np.ndarray, annotation: np.ndarray) -> np.ndarray:
        """The weak label of slice `z` of a case.

        Args:
          entry: the case.
          z: index of the slice.
          label: int32 (y, x), the classes of the resampled mask; all UNLABELED without a mask.
          annotation: int32 (y, x), the drawn annotation's classes at native size; all UNLABELED without one.

        Returns:
          int32 (y, x) like `label`.
        """
        recipe = self.recipe_of(entry.patient)
        if recipe != DRAWN:
            return RECIPES[recipe](label, SlicePosition(entry.name, z, entry.slices), self.style)
        return weak_labels.resize(annotation, label.shape) if entry.annotated else label
