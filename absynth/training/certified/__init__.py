"""Training the decoders of a codebook for its decisions and its certificates.

The certified radius of an image is the least distance h(q, p) to a half-space in which a rival prototype q
beats an own one p, where p may be chosen for each q (:mod:`absynth.certify.halfspace`). So in every round of
a stage (:mod:`~absynth.training.certified.stage`)

1. some training images are changed a little, each in its own way, and prototypes are decoded from the
   posteriors of others: an image that had its own latent in the codebook would be too easy;
2. for each image the rivals with the smallest distance are mined, and the best own prototype against each
   (where L0 is asked for, more of them, of which those stay that are nearest in L0;
   :mod:`~absynth.training.certified.pairs`, :mod:`~absynth.training.certified.distances`);
3. Adam lowers the mean over these pairs of softplus(β (t − h)) / β, once with a target t for the certificates
   and once with a small and sharp one for the decision itself, perhaps once more with h in pixels, plus a
   little of the own prototype's score, through the decoders. Images that are beyond the targets already are
   left out (:mod:`~absynth.training.certified.learning`).

What is mined goes stale as the decoders move, so that a round takes few and small steps. Every round asks for
something a little different: either the learning rate falls until that no longer shows, or it stays and the
weights are averaged over many rounds. The prototypes stay what decoders make of latents: moved freely, they
fit the training images and gain nothing on others.

What is asked for stands in :mod:`~absynth.training.certified.settings`. A codebook ABS starts from the
decoders of a trained ABS; the certified models start from VAEs of their own, of fully connected layers
(:mod:`absynth.training.certified.from_nothing`). All of them end in
:mod:`~absynth.training.certified.finish`.
"""

from absynth.training.certified.finish import finish
from absynth.training.certified.settings import CertifiedSettings, choose_settings, choose_stages

__all__ = ["CertifiedSettings", "choose_settings", "choose_stages", "finish"]
