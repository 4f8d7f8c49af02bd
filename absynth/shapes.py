"""The dimension names of every annotated tensor in this package.

========== ==================================================================
batch      images looked at together
class      the classes that the model can answer with
latent     coordinates of a latent vector z (8 in the paper)
prototype  entries of one class's codebook
pixel      the pixels of one image, flattened
channel    colour channels (1 for grey images)
height     rows of an image
width      columns of an image
========== ==================================================================

The shapes are checked at run time under pytest only (jaxtyping with beartype).
"""

from jaxtyping import Float, Int64
from torch import Tensor

Images = Float[Tensor, "batch channel height width"]
Labels = Int64[Tensor, "batch"]
Logits = Float[Tensor, "batch class"]
Losses = Float[Tensor, "batch class"]
