"""Analysis by synthesis: finding, for every class, the latent that best explains an image."""

from absynth.inference.abs import ABS, Synthesis
from absynth.inference.codebook import CodebookABS
from absynth.inference.latent import FAST, PAPER, SearchSettings

__all__ = ["ABS", "FAST", "PAPER", "CodebookABS", "SearchSettings", "Synthesis"]
