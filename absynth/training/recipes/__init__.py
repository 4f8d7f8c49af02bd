"""The recipes of the shipped models: how each was made is read from top to bottom in one file.

A recipe takes what is asked for (:class:`Options`), chooses its settings, and returns what carries it out on
images (:class:`~absynth.training.assignment.Assignment`)::

    find_recipe("cnn").plan(Options(epochs=3))(Assignment(images, labels, out, command, progress))

A new one is a file that ends with its ``RECIPE``, and a line in the table below.
"""

from absynth.errors import AbsynthError
from absynth.training.assignment import Assignment
from absynth.training.recipe import Options, Recipe
from absynth.training.recipes.abs import RECIPE as ABS
from absynth.training.recipes.binary_abs import RECIPE as BINARY_ABS
from absynth.training.recipes.certified_abs import RECIPE as CERTIFIED_ABS
from absynth.training.recipes.certified_binary_abs import RECIPE as CERTIFIED_BINARY_ABS
from absynth.training.recipes.cnn import BINARY_RECIPE as BINARY_CNN
from absynth.training.recipes.cnn import RECIPE as CNN
from absynth.training.recipes.codebook_abs import RECIPE as CODEBOOK_ABS
from absynth.training.recipes.interval_cnn import RECIPE as INTERVAL_CNN
from absynth.training.recipes.learned_prototypes import RECIPE as LEARNED_PROTOTYPES
from absynth.training.recipes.madry import RECIPE as MADRY
from absynth.training.recipes.smoothed_cnn import RECIPE as SMOOTHED_CNN

__all__ = ["RECIPES", "Assignment", "Options", "Recipe", "find_recipe"]

RECIPES = {
    recipe.name: recipe
    for recipe in (
        ABS,
        CODEBOOK_ABS,
        BINARY_ABS,
        CERTIFIED_ABS,
        CERTIFIED_BINARY_ABS,
        CNN,
        BINARY_CNN,
        MADRY,
        INTERVAL_CNN,
        SMOOTHED_CNN,
        LEARNED_PROTOTYPES,
    )
}


def find_recipe(name: str) -> Recipe:
    """A recipe by its name.

    Args:
        name: Of the model that it makes.

    Raises:
        AbsynthError: If there is none.
    """
    if name not in RECIPES:
        raise AbsynthError(f"There is no recipe '{name}'; choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]
