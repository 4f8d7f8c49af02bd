"""How fast certificates are, by norm and by size of the codebook."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from absynth.certify import certify
from absynth.errors import AbsynthError
from absynth.inference import CodebookABS
from absynth.inference.codebook import draw_latents
from absynth.models.front import Fronted, unwrap
from absynth.models.vae import Decoder
from absynth.norms import Norm
from absynth.shapes import Images, Labels


@dataclass(frozen=True)
class Speed:
    """One measurement.

    Attributes:
        prototypes: Number a class.
        norm: Of the certificates.
        images_per_second: Wall-clock, decisions included.
        mean_radius: Of all images, for the trade-off.
    """

    prototypes: int
    norm: Norm
    images_per_second: float
    mean_radius: float


def certificate_speed(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    norms: Sequence[Norm],
    sizes: Sequence[int],
    seed: int = 0,
) -> Iterator[Speed]:
    """Times certificates of the same decoders with codebooks of several sizes, drawn from the prior.

    Args:
        model: Codebook ABS, or one behind a threshold or a clamp.
        images: What to certify.
        labels: Their classes.
        norms: In which norms.
        sizes: Prototypes a class.
        seed: Of the latents.

    Raises:
        AbsynthError: If the model has no decoders to draw other codebooks from.
    """
    codebook = unwrap(model)
    if not isinstance(codebook, CodebookABS):
        raise AbsynthError("The speed is measured on a codebook ABS; name codebook-abs or its binary form.")
    decoders = [decoder for decoder in codebook.decoders if isinstance(decoder, Decoder)]
    for size in sizes:
        latents = draw_latents(size, seed=seed).to(images.device)
        resized = CodebookABS(decoders, latents, codebook.biases, prior_weight=codebook.prior_weight)
        resized.prepare()
        classifier = model.in_front_of(resized) if isinstance(model, Fronted) else resized
        for norm in norms:
            started = time.perf_counter()
            radius = certify(classifier, images, labels, norm).radius
            if radius.device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - started
            yield Speed(size, norm, len(images) / seconds, float(radius.mean()))
