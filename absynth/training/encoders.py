"""The encoders of an ABS: it classifies without them, and with them its VAEs can be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save
from torch import nn

from absynth.errors import AbsynthError
from absynth.files import write_bytes
from absynth.inference import ABS, PAPER
from absynth.models.pretrained import load_folder, read_weights
from absynth.models.vae import VAE

ENCODERS_NAME = "encoders.safetensors"


def write_encoders(folder: Path, vaes: Sequence[VAE]) -> None:
    """Stores the encoders, which the classifier does not need, in a file of their own."""
    encoders = nn.ModuleList(vae.encoder for vae in vaes)
    tensors = {name: tensor.contiguous() for name, tensor in encoders.state_dict().items()}
    write_bytes(folder / ENCODERS_NAME, save(tensors))


def read_vaes(folder: Path) -> list[VAE]:
    """The whole VAEs of an ABS that training saved.

    Raises:
        AbsynthError: If the folder holds none, or only what was derived from one.
    """
    model = load_folder(folder, {"settings": PAPER.to_json()})
    if not isinstance(model, ABS):
        raise AbsynthError(f"{folder} holds no ABS to go on from; name the folder of one.")
    size = model.codebook.image_size
    vaes = [VAE(model.codebook.latents.shape[2], size) for _ in model.codebook.decoders]
    encoders = nn.ModuleList(vae.encoder for vae in vaes)
    try:
        encoders.load_state_dict(read_weights(folder / ENCODERS_NAME))
        for vae, decoder in zip(vaes, model.codebook.decoders, strict=True):
            vae.decoder.load_state_dict(decoder.state_dict())
    except RuntimeError:
        raise AbsynthError(
            f"The encoders or decoders in {folder} are not as training left them; name a folder it wrote."
        ) from None
    return vaes
