"""Analysis by synthesis as an estimator of scikit-learn; the only module that imports it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from absynth.errors import AbsynthError

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError:
    raise AbsynthError(
        "ABSClassifier needs scikit-learn 1.6 or newer; install it with: pip install 'absynth[sklearn]'."
    ) from None

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from absynth.certify import certify
from absynth.data.domain import LARGEST_SIDE, SMALLEST_SIDE, Domain, Size
from absynth.data.split import Validation
from absynth.inference import ABS, CodebookABS
from absynth.inference.codebook import draw_latents
from absynth.inference.latent import fast_settings
from absynth.inputs import MOST, digits, offender, whole_number
from absynth.models.asked import from_outside
from absynth.models.confidence import logits_to_probabilities
from absynth.models.pretrained import PretrainedModel
from absynth.models.vae import VAE
from absynth.norms import parse_norm
from absynth.progress import progress_display
from absynth.shapes import Images, Labels, Logits
from absynth.surroundings import standard
from absynth.training import TrainingSettings, train_vaes
from absynth.training.finishing import fit_sharpness
from absynth.training.latents import posterior_latents

IMAGES_AT_ONCE = 500

ROUNDED = 2.0**-23
"""More than a pixel of X and a changed one can come apart when both are rounded to float32 in [0, 1]."""

STRICTLY = 1 - 2.0**-40
"""Makes up for the rounding of a radius when its unit is changed."""


@dataclass(frozen=True)
class _Canvas:
    """How a small picture becomes an image that a VAE takes: its pixels as equal blocks, black around them.

    Attributes:
        picture: Rows and columns of the picture.
    """

    picture: Size

    @property
    def block(self) -> int:
        """The side of the block that a pixel becomes."""
        return max(1, SMALLEST_SIDE // max(self.picture))

    @property
    def size(self) -> Size:
        """Rows and columns of the image."""
        height, width = (max(SMALLEST_SIDE, self.block * side) for side in self.picture)
        return height, width

    def place(self, rows: Float[Tensor, "batch pixel"]) -> Images:
        """The images of pictures; pixels that are missing at their end are black."""
        height, width = self.picture
        pictures = functional.pad(rows, (0, height * width - rows.shape[1])).view(-1, 1, height, width)
        blocks = pictures.repeat_interleave(self.block, 2).repeat_interleave(self.block, 3)
        missing = [whole - part for whole, part in zip(self.size, blocks.shape[2:], strict=True)]
        above, before = (side // 2 for side in missing)
        return functional.pad(blocks, (before, missing[1] - before, above, missing[0] - above))

    def radius_of_picture(self, radius: np.ndarray, norm: str) -> np.ndarray:
        """The radius of the picture in [0, 1] that follows from one of its image.

        To change a pixel is to change its whole block, so that the image's distance is a known multiple of
        the picture's.
        """
        pixels = self.block**2
        if norm == "l0":
            return np.floor(radius / pixels)
        height, width = self.size
        multiple, rounding = {
            "l2": (self.block, ROUNDED * math.sqrt(height * width)),
            "l1": (pixels, ROUNDED * height * width),
            "linf": (1, ROUNDED),
        }[norm]
        return np.maximum(radius - rounding, 0) / multiple * STRICTLY


class ABSClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Analysis by synthesis behind the interface of scikit-learn: one VAE a class, the best synthesis wins.

    X holds grey images as rows of pixels (n, height·width), or as (n, height, width) or
    (n, 1, height, width). Rows are read as square pictures, filled up with black at the end where their
    length is no square; give others with their height and width, 64 at most. Pictures of less than 16 pixels
    a side are enlarged, each pixel to a block, and what is missing then is filled with black.

    ``predict_proba`` is the confidence of :func:`~absynth.models.confidence.logits_to_probabilities`: near
    1/classes for what no class explains, so that a classifier can abstain where its largest value stays
    below, say, 1.05/classes.

    Args:
        epochs: Passes over the training images.
        least_steps: Steps that each VAE gets at least, in as many more epochs as that takes.
        latents: Latent coordinates of each VAE.
        codebook_size: Prototypes of each class; with the inference ``"full"``, starts of the search.
        inference: ``"codebook"``: the best of fixed prototypes, fast, and what :meth:`certify` proves
            something about. ``"full"``: the search for the best latent, as in the paper.
        batch_size: Images a step.
        learning_rate: Of Adam, at the start.
        validation_fraction: Share of each class that is kept out of the training, to see how well such images
            are explained, which sets the scale of the confidence.
        value_range: The values of black and white in X; no pixel may lie outside by more than rounding, a
            millionth of the range.
        random_state: A seed, a generator of NumPy (``Generator`` or ``RandomState``), or None for other draws
            each time.
        verbose: Show the training's progress on standard error.

    Attributes:
        classes_: The labels, sorted.
        model_: The trained network (:class:`~absynth.inference.CodebookABS` or
            :class:`~absynth.inference.ABS`), of the enlarged pictures in [0, 1]; attacks, certificates and
            ``save_pretrained`` take it as it is.
        image_shape_: Height and width of a picture.
        n_features_in_: Pixels of a picture.

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(n_class=3, return_X_y=True)
    >>> classifier = ABSClassifier(least_steps=30, learning_rate=0.01, value_range=(0, 16), random_state=0)
    >>> bool(classifier.fit(X[:200], y[:200]).score(X[200:300], y[200:300]) > 0.9)
    True
    """

    def __init__(
        self,
        *,
        epochs: int = 20,
        least_steps: int = 200,
        latents: int = 8,
        codebook_size: int = 1000,
        inference: str = "codebook",
        batch_size: int = 64,
        learning_rate: float = 2e-3,
        validation_fraction: float = 0.1,
        value_range: tuple[float, float] = (0.0, 1.0),
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.epochs = epochs
        self.least_steps = least_steps
        self.latents = latents
        self.codebook_size = codebook_size
        self.inference = inference
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.value_range = value_range
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn asks about an estimator: here, that images need not be rows."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def fit(self, X: Any, y: Any) -> ABSClassifier:
        """Trains one VAE a class.

        Args:
            X: Images, see the class.
            y: Their labels, of any type that sorts.

        Raises:
            AbsynthError: If a parameter, the size of the images or a value of theirs makes no sense.
        """
        if self.inference not in ("codebook", "full"):
            raise AbsynthError(f"There is no inference '{self.inference}'; choose codebook or full.")
        for name in ("epochs", "least_steps", "latents", "codebook_size", "batch_size"):
            whole_number(getattr(self, name), name, least=-MOST)
        for name in ("learning_rate", "validation_fraction"):
            if not isinstance(getattr(self, name), Real):
                raise AbsynthError(f"The {name} is {getattr(self, name)!r}; give a number.")
        if self.codebook_size < 1 or self.latents < 1:
            raise AbsynthError("The codebook and the latents need a size of at least 1.")
        rows, shape = _rows(X)
        rows, y = validate_data(self, rows, _array(y), dtype=np.float64)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        self.image_shape_ = shape or (math.isqrt(rows.shape[1] - 1) + 1,) * 2
        if max(self.image_shape_) > LARGEST_SIDE:
            raise AbsynthError(
                f"The pictures have {self.image_shape_[0]} rows and {self.image_shape_[1]} columns; "
                f"scale them down to {LARGEST_SIDE} or less."
            )
        seed = _draw(self.random_state, 2**31 - len(self.classes_))
        with standard(gradients=True, device=torch.device("cpu")), torch.random.fork_rng(devices=[]):
            self.model_ = self._train(self._images(rows), torch.from_numpy(codes.astype(np.int64)), seed)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The label of the class with the best synthesis.

        Args:
            X: Images, see the class.
        """
        logits = self._logits(X)
        chosen: np.ndarray = self.classes_[logits.argmax(1).numpy()]
        return chosen

    def predict_proba(self, X: Any) -> np.ndarray:
        """The confidence in each class, in the order of ``classes_``; near-uniform where none fits.

        Args:
            X: Images, see the class.
        """
        with standard(gradients=False):
            return logits_to_probabilities(self._logits(X).double()).numpy()

    def certify(self, X: Any, y: Any, norm: Any = "l2") -> np.ndarray:
        """Proves within which distance of each image no change can flip the decision.

        The radius is in the values of X, for L0 in pixels, and float64: any image of X's form and range that
        is no further away gets the same label. It is 0 where the prediction is not the label.

        Args:
            X: Images, see the class.
            y: Their true labels.
            norm: ``"l2"``, ``"l1"``, ``"linf"`` or ``"l0"``, or the order of one.

        Raises:
            AbsynthError: If the inference is not ``"codebook"``, there is no such norm, or a label was not
                among those of the training.
        """
        chosen = parse_norm(norm)
        images = self._checked(X)
        if not isinstance(self.model_, CodebookABS):
            raise AbsynthError("Only the inference 'codebook' can be certified; fit the classifier with it.")
        labels = np.asarray(_array(y))
        unknown = labels[~np.isin(labels, self.classes_)]
        if unknown.size:
            raise AbsynthError(
                f"The label '{unknown[0]}' is none of the training's; give those of 'classes_'."
            )
        codes = torch.from_numpy(np.searchsorted(self.classes_, labels).astype(np.int64))
        proven = certify(self.model_, images, codes, chosen).radius.numpy()
        radius = _Canvas(self.image_shape_).radius_of_picture(proven, chosen)
        low, high = self._limits()
        return radius if chosen == "l0" else radius * (high - low) * STRICTLY

    def _train(self, images: Images, labels: Labels, seed: int) -> PretrainedModel:
        trained, held_out = Validation(self.validation_fraction, seed).split(labels)
        vaes = self._train_vaes(images[trained], labels[trained], seed)
        if self.inference == "codebook":
            members = [images[trained][labels[trained] == label] for label in range(len(vaes))]
            generator = torch.Generator().manual_seed(seed)
            found = [
                posterior_latents(vae, own, self.codebook_size, generator)
                for vae, own in zip(vaes, members, strict=True)
            ]
            codebook = CodebookABS([vae.decoder for vae in vaes], torch.stack(found))
        else:
            drawn = draw_latents(self.codebook_size, self.latents, seed)
            codebook = CodebookABS([vae.decoder for vae in vaes], drawn)
        height, width = images.shape[2:]
        full = self.inference == "full"
        model = ABS(codebook, fast_settings(height * width)) if full else codebook
        model.domain = Domain(tuple(map(str, self.classes_)), (height, width))
        model.prepare()
        model.eval().requires_grad_(False)
        codebook.alpha = fit_sharpness(model, images, held_out if len(held_out) else trained)
        return model

    def _train_vaes(self, images: Images, labels: Labels, seed: int) -> list[VAE]:
        height, width = images.shape[2:]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            untrained = [VAE(self.latents, (height, width)) for _ in self.classes_]
        with TemporaryDirectory() as folder, progress_display(self.verbose) as progress:
            vaes, _ = train_vaes(
                images,
                labels,
                TrainingSettings(
                    self.epochs, self.batch_size, self.learning_rate, seed, least_steps=self.least_steps
                ),
                classes=len(untrained),
                folder=Path(folder),
                progress=progress,
                start=untrained,
            )
        return vaes

    def _limits(self) -> tuple[float, float]:
        """The values of black and white.

        Raises:
            AbsynthError: If ``value_range`` is not two finite numbers, the first the smaller.
        """
        try:
            if isinstance(self.value_range, str):
                raise TypeError
            low, high = map(float, self.value_range)
        except (TypeError, ValueError):
            low = high = math.nan
        if not (math.isfinite(low) and math.isfinite(high)):
            raise AbsynthError(
                f"The value_range is {self.value_range!r}; give the values of black and white, as (0, 255)."
            )
        if not low < high:
            raise AbsynthError(f"The value_range {self.value_range} is empty; give black before white.")
        return low, high

    def _images(self, rows: np.ndarray) -> Images:
        """Checked rows of pixels as what the model takes.

        Raises:
            AbsynthError: If a pixel is outside the range.
        """
        low, high = self._limits()
        darkest, lightest = float(rows.min()), float(rows.max())
        if offender(darkest, lightest, bottom=low, top=high) is not None:
            raise AbsynthError(
                f"The pixels go from {digits(darkest)} to {digits(lightest)}, their range is "
                f"({low:g}, {high:g}); give the right value_range."
            )
        scaled = torch.from_numpy(((rows - low) / (high - low)).clip(0, 1).astype(np.float32))
        return _Canvas(self.image_shape_).place(scaled)

    def _checked(self, X: Any) -> Images:
        check_is_fitted(self)
        rows, shape = _rows(X)
        rows = validate_data(self, rows, dtype=np.float64, reset=False)
        if shape not in (None, self.image_shape_):
            raise AbsynthError(f"The pictures are {shape}, those of the training were {self.image_shape_}.")
        return self._images(rows)

    def _logits(self, X: Any) -> Logits:
        with standard(gradients=False):
            images = self._checked(X)
            model = from_outside(self.model_, images.dtype)
            return torch.cat([model(some) for some in images.split(IMAGES_AT_ONCE)])


def _draw(random_state: Any, below: int) -> int:
    """A seed below a number, from what scikit-learn takes for randomness or NumPy's present generator."""
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(below))
    return int(check_random_state(random_state).randint(below))


def _array(values: Any) -> Any:
    """A tensor as an array; anything else as it is."""
    if not isinstance(values, Tensor):
        return values
    known = values.detach().cpu()
    return known.to(torch.float64 if known.is_floating_point() else known.dtype).numpy()


def _rows(X: Any) -> tuple[Any, Size | None]:
    """Images as rows of pixels with their height and width, or what has no more than two dimensions as it is.

    Raises:
        AbsynthError: If they are not grey.
    """
    given = _array(X)
    if (given.ndim if hasattr(given, "ndim") else np.asarray(given).ndim) <= 2:
        return given, None
    images = np.asarray(given)
    if images.ndim != 3 and (images.ndim != 4 or images.shape[1] != 1):
        raise AbsynthError(
            f"The images have shape {images.shape}; give (n, pixels), (n, height, width) or "
            "(n, 1, height, width)."
        )
    height, width = images.shape[-2:]
    return images.reshape(len(images), height * width), (height, width)
