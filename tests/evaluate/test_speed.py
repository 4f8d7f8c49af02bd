import pytest
import torch

from absynth.errors import AbsynthError
from absynth.evaluate.speed import certificate_speed
from absynth.inference import CodebookABS
from absynth.inference.codebook import draw_latents
from absynth.models.cnn import CNN, Binarized
from absynth.models.vae import Decoder
from absynth.report.certificates import speed_table


@pytest.mark.parametrize("binary", [False, True])
def test_every_size_and_norm_is_timed(binary: bool) -> None:
    torch.manual_seed(0)
    codebook = CodebookABS([Decoder() for _ in range(2)], draw_latents(5))
    codebook.prepare()
    images, labels = torch.rand(6, 1, 28, 28), torch.zeros(6, dtype=torch.int64)
    model = Binarized(codebook) if binary else codebook
    speeds = list(certificate_speed(model, images, labels, norms=["l2", "l0"], sizes=[3, 9]))
    assert [(speed.prototypes, speed.norm) for speed in speeds] == [
        (3, "l2"),
        (3, "l0"),
        (9, "l2"),
        (9, "l0"),
    ]
    assert all(speed.images_per_second > 0 for speed in speeds)
    assert speed_table(speeds, "small").row_count == 2


def test_other_models_are_refused() -> None:
    with pytest.raises(AbsynthError, match="codebook ABS"):
        next(certificate_speed(CNN(), torch.rand(1, 1, 28, 28), torch.tensor([0]), norms=["l2"], sizes=[3]))
