"""The rows of the comparison: a model and what certifies it, and what others have published."""

from __future__ import annotations

from dataclasses import dataclass, field

from absynth.norms import NORMS, Norm


@dataclass(frozen=True)
class Row:
    """A way to an answer that is proven to stand.

    Attributes:
        name: Of its files.
        title: In the tables.
        model: That is certified.
        method: That certifies it; None for the one of the model's kind.
        settings: Of the method.
        norms: That it is certified in.
    """

    name: str
    title: str
    model: str
    method: str | None = None
    settings: dict[str, str] = field(default_factory=dict)
    norms: tuple[Norm, ...] = NORMS

    @property
    def made_from(self) -> bool:
        """Whether it is not the model that is certified, but a classifier made from it."""
        return self.method in ("smoothing", "ablation")

    @property
    def command(self) -> str:
        """What measures it on the command line."""
        words = ["absynth certify", f"--model {self.model}", f"--norm {','.join(self.norms)}"]
        words += [] if self.method is None else [f"--method {self.method}"]
        words += [f"--set {key}={value}" for key, value in self.settings.items()]
        return " ".join([*words, "-n 1000", f"--out docs/results/comparison/{self.name}.parquet"])


def smoothed(name: str, model: str, sigma: float, samples: int) -> Row:
    """A network certified by randomised smoothing, in the norms that Gaussian noise serves.

    Args:
        name: Of its files.
        model: The network.
        sigma: Standard deviation of the noise.
        samples: Copies an image.
    """
    return Row(
        name,
        f"`{model}`, smoothing (sigma {sigma:g}, {samples:,} copies)",
        model,
        "smoothing",
        {"sigma": f"{sigma:g}", "samples": str(samples)},
        ("l2", "l1", "linf"),
    )


ROWS = (
    Row("certified-abs", "`certified-abs`", "certified-abs"),
    Row("certified-binary-abs", "`certified-binary-abs`", "certified-binary-abs"),
    Row("nearest-neighbour", "`nearest-neighbour`", "nearest-neighbour"),
    Row("learned-prototypes", "`learned-prototypes`", "learned-prototypes"),
    Row("interval-cnn-interval", "`interval-cnn`, intervals", "interval-cnn", "interval", norms=("linf",)),
    Row("interval-cnn-crown", "`interval-cnn`, CROWN", "interval-cnn", "crown"),
    Row("madry-crown", "`madry`, CROWN", "madry", "crown", norms=("l2", "l1", "linf")),
    Row("cnn-crown", "`cnn`, CROWN", "cnn", "crown", norms=("l2", "l1", "linf")),
    smoothed("smoothed-cnn", "smoothed-cnn", 0.5, 100_000),
    smoothed("smoothed-cnn-075", "smoothed-cnn-075", 0.75, 10_000),
    smoothed("madry-smoothing", "madry", 0.25, 10_000),
    smoothed("cnn-smoothing", "cnn", 0.25, 1_000),
)
"""In the order of the tables; ours first."""


@dataclass(frozen=True)
class Published:
    """What others have published.

    Attributes:
        what: The classifier and its certificate.
        figures: What is proven of it, with the size.
        note: What to know of it.
        source: Who published it.
    """

    what: str
    figures: str
    note: str
    source: str


PUBLISHED = (
    Published(
        "randomised smoothing, the best of five training methods",
        "82.0 % at L2 1.5 (sigma 0.5)",
        "holds with probability 99.9 % an image",
        "Jeong et al. 2021, arXiv 2111.09277",
    ),
    Published(
        "nearest prototypes, trained for their certificates",
        "73.0 % at L2 1.58",
        "images cropped to 26 by 26 pixels",
        "Voráček & Hein 2022, arXiv 2207.07208",
    ),
    Published(
        "interval bounds of small boxes in training, branch and bound after it",
        "98.2 % at Linf 0.1, 93.4 % at 0.3",
        "deterministic",
        "Müller et al. 2023, arXiv 2210.04871",
    ),
)
