"""The end of training for certificates: from VAEs to a saved codebook, with what is proven of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from absynth.certify import Certificate, certify
from absynth.data.domain import Domain
from absynth.inference import CodebookABS
from absynth.inference.codebook import codebook_size
from absynth.models.pretrained import PretrainedModel, round_to_half
from absynth.models.vae import VAE
from absynth.norms import Norm
from absynth.training.assignment import Assignment
from absynth.training.augmentation import Perturbation
from absynth.training.certified.settings import CertifiedSettings
from absynth.training.certified.stage import train_for_certificates
from absynth.training.finishing import fit_sharpness, validate
from absynth.training.latents import codebook_latents, encode

MEASURED = 500
"""Images held out that are certified in the end."""

MEASURED_AT: dict[Norm, tuple[float, ...]] = {"l2": (1.0, 1.5, 1.58, 2.0), "l0": (8.0, 12.0)}
"""The sizes that their certified accuracy is stored for, by norm."""

MEASURED_AT_BINARY: dict[Norm, tuple[float, ...]] = {"linf": (0.3,), "l0": (8.0, 12.0)}
"""The same for binary input."""


def finish(
    work: Assignment,
    vaes: Sequence[VAE],
    stages: Sequence[CertifiedSettings],
    *,
    domain: Domain,
    prototypes: int | None,
    perturbation: Perturbation,
    alpha: float | None = None,
    explained: dict[str, Any] | None = None,
) -> PretrainedModel:
    """Trains the decoders of VAEs for certificates, and saves the codebook that they make.

    What a model stands behind, what its latents are found in and every draw but those of the rounds are as
    the last stage says.

    Args:
        work: What is trained on.
        vaes: One a class.
        stages: Of the training, one after the other.
        domain: What the model is for.
        prototypes: Of a class; None for as many as suit the data.
        perturbation: Changes the images of the rounds a little.
        alpha: Sharpness of the confidence; by default it is fitted to how well the codebook explains images.
        explained: What the record says of the training of the VAEs.
    """
    images, labels = work.images[work.trained], work.labels[work.trained]
    decoders = [vae.eval().decoder.folded() for vae in vaes]
    height, width = decoders[0].image_size
    count = codebook_size(len(vaes), height * width) if prototypes is None else prototypes
    used = [replace(stage, compared=min(stage.compared, count)) for stage in stages]
    last = used[-1]
    generator = torch.Generator().manual_seed(last.seed)

    posterior = encode(vaes, images, labels, last.copies, generator)
    latents = torch.stack(
        [codebook_latents(posterior, labels == label, count, generator) for label in range(len(vaes))]
    )
    history: list[float] = []
    for number, stage in enumerate(used, start=1):
        history = train_for_certificates(
            decoders,
            posterior,
            images,
            labels,
            # Decoders trained behind a clamp gain radius but lose decisions, so that it is put there later.
            replace(stage, tail=0.0, prior_weight=1.0),
            checkpoint=work.checkpoints / ("codebook.pt" if number == 1 else f"codebook-{number}.pt"),
            progress=work.progress,
            perturbation=perturbation,
        )

    codebook = CodebookABS(decoders, latents, prior_weight=last.prior_weight)
    round_to_half(codebook)
    codebook.prepare()
    if alpha is None:
        rows = work.held_out if len(work.held_out) else work.trained
        alpha = fit_sharpness(codebook, last.see(work.images), rows)
    codebook.alpha = alpha
    model = last.behind(codebook)
    model.domain = domain

    record: dict[str, Any] = {"command": work.command}
    record |= {} if explained is None else {"explaining": explained}
    record |= {**asdict(last), "trained_on": len(images)}
    record |= {"before": [asdict(stage) for stage in used[:-1]]} if len(used) > 1 else {}
    record |= {"final_loss": round(history[-1], 4)} if history else {}
    record |= validate(model, work)
    some = work.held_out[torch.randperm(len(work.held_out), generator=generator)[:MEASURED]]
    if len(some):
        proven = {
            norm: certified_figures(
                certify(model, work.images[some], work.labels[some], norm, progress=work.progress), sizes
            )
            for norm, sizes in (MEASURED_AT_BINARY if last.binary else MEASURED_AT).items()
        }
        record["certified"] = {"images": len(some), **proven}
    model.save_pretrained(work.out, record)
    return model.requires_grad_(False)


def certified_figures(certificate: Certificate, sizes: Sequence[float]) -> dict[str, Any]:
    """The mean and the median radius, and the certified accuracy by size, as JSON values."""
    radius = certificate.radius
    return {
        "mean": round(float(radius.mean()), 4),
        "median": round(float(radius.quantile(0.5)), 4),
        "accuracy": {f"{size:g}": float((radius >= size).double().mean()) for size in sizes},
    }
