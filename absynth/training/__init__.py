"""How models are trained, from images to a saved folder.

How a shipped model was made stands in one file of :mod:`absynth.training.recipes`. What a recipe is made of:

===================  ===============================================================================
settings             how long and how fast
augmentation         small changes of the images
losses               what networks are trained for
adversarial          batches that are turned against the network before it learns from them
intervals            interval bounds through a network, and a loss made of them
smoothing            training on noise, for randomised smoothing
batch_norm           put into a network for its training, and folded into its weights afterwards
checkpoints          from which an interrupted training goes on
loop                 the one training loop, which all of these are given to
vaes                 one VAE a class
side_by_side         all of them at once, as jobs of an engine
encoders             kept beside an ABS, so that its VAEs can be trained on
rounds               which images count more when they are
latents              what explains training images, for codebooks
recipe               what recipes have in common, and what can be asked of one
certified            decoders that are trained for the certificates of their codebook
assignment           what a recipe is carried out on
finishing            what recipes share at their beginning and end
===================  ===============================================================================
"""

from absynth.training.loop import fit
from absynth.training.settings import TrainingSettings
from absynth.training.vaes import train_vaes

__all__ = ["TrainingSettings", "fit", "train_vaes"]
