"""Analysis by synthesis: finding, for every class, the latent that best explains an image."""

from absynth.inference.abs import ABS, Synthesis
from absynth.inference.codebook import CodebookABS
from absynth.inference.latent import PAPER, SearchSettings

__all__ = ["ABS", "PAPER", "CodebookABS", "SearchSettings", "Synthesis"]
