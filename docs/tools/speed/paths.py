"""The hot paths beside the limits of this machine: what they compute and move, and where the time goes."""

from __future__ import annotations

from functools import partial

from limits import Cost, Limits, Work, measure_cost, seconds
from torch import Tensor, nn

from absynth.inference import ABS, CodebookABS
from absynth.inference.codebook import DECODED_AT_ONCE, draw_latents
from absynth.models.vae import Decoder

Rows = list[list[str]]


def decoder_flops(decoder: Decoder) -> int:
    """Two for each multiplication of the transposed convolutions, for one image."""
    height = width = 1
    total = 0
    for layer in decoder.layers:
        if isinstance(layer, nn.ConvTranspose2d):
            total += 2 * height * width * layer.weight.numel()
            height = (height - 1) * layer.stride[0] + layer.weight.shape[2]
            width = (width - 1) * layer.stride[1] + layer.weight.shape[3]
    return total


def decoder_rows(threads: int, peak: float) -> Rows:
    """A pass of decoders of several sizes of image and latent, and the share of the peak that it reaches."""
    rows = []
    for side, latents in ((28, 8), (40, 8), (64, 8), (28, 2), (28, 32)):
        decoder = Decoder(latents, image_size=(side, side)).eval().folded()
        flops = decoder_flops(decoder)
        for size in (1, 64, DECODED_AT_ONCE):
            values = draw_latents(size, latents)[0]
            spent = seconds(partial(decoder, values), threads) / size
            share = f"{100 * flops / spent / peak:.0f} %"
            rows.append(
                [f"{side}", f"{latents}", f"{size}", f"{flops / 1e6:.2f}", f"{1e6 * spent:.0f}", share]
            )
    return rows


def limit_rows(
    model: ABS, codebook: CodebookABS, images: Tensor, threads: int, limits: Limits
) -> tuple[Rows, Rows]:
    """What each hot path computes and moves beside the limit that this sets, and where its time goes.

    Args:
        model: ABS with its default settings.
        codebook: A large one.
        images: To classify.
        threads: For :func:`measure_cost`.
        limits: Of this machine.
    """
    decoder = model.codebook.decoders[0]
    larger = Decoder(image_size=(64, 64)).eval().folded()
    latents = draw_latents(DECODED_AT_ONCE)[0]
    paths: list[tuple[str, int, Work]] = [
        *(("codebook", size, partial(codebook, images[:size])) for size in (1, len(images))),
        *(("decoder", size, partial(decoder, latents[:size])) for size in (1, 64, DECODED_AT_ONCE)),
        ("decoder, side 64", DECODED_AT_ONCE, partial(larger, latents)),
        *(("ABS", size, partial(model, images[:size])) for size in (1, min(64, len(images)))),
    ]
    counted, spent = [], []
    for name, size, work in paths:
        cost = measure_cost(work, threads)
        counted.append([name, f"{size}", *_counts(cost, size, limits)])
        spent.append([name, f"{size}", *_shares(cost, size)])
    return counted, spent


def _counts(cost: Cost, size: int, limits: Limits) -> list[str]:
    arithmetic, traffic = cost.arithmetic(limits), cost.traffic(limits)
    return [
        f"{cost.flops / size / 1e6:.2f}",
        f"{cost.bytes / size / 1e6:.2f}",
        f"{1e3 * cost.seconds / size:.3f}",
        f"{1e3 * arithmetic / size:.3f}",
        f"{1e3 * traffic / size:.3f}",
        "arithmetic" if arithmetic > traffic else "memory",
        f"{100 * max(arithmetic, traffic) / cost.seconds:.0f} %",
    ]


def _shares(cost: Cost, size: int) -> list[str]:
    largest = [f"`{name.removeprefix('aten::')}` {100 * share:.0f} %" for name, share in cost.shares.items()]
    outside = max(0.0, 1 - sum(cost.shares.values()))
    new = f"{cost.pages / size / 1e6:.2f}"
    return [f"{cost.calls / size:,.1f}", new, f"{100 * outside:.0f} %", ", ".join(largest[:4])]
