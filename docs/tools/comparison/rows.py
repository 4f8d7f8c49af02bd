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


ROWS = (
    Row("certified-abs", "`certified-abs`", "certified-abs"),
    Row("certified-binary-abs", "`certified-binary-abs`", "certified-binary-abs"),
    Row("nearest-neighbour", "`nearest-neighbour`", "nearest-neighbour"),
    Row("cnn-crown", "`cnn`, CROWN", "cnn", "crown"),
    Row("madry-crown", "`madry`, CROWN", "madry", "crown"),
    Row("interval-cnn-crown", "`interval-cnn`, CROWN", "interval-cnn", "crown"),
    Row("interval-cnn-interval", "`interval-cnn`, intervals", "interval-cnn", "interval", norms=("linf",)),
    Row(
        "cnn-smoothing",
        "`cnn`, smoothing (sigma 0.25)",
        "cnn",
        "smoothing",
        {"sigma": "0.25", "samples": "10000"},
        ("l2", "l1", "linf"),
    ),
    Row(
        "madry-smoothing",
        "`madry`, smoothing (sigma 0.25)",
        "madry",
        "smoothing",
        {"sigma": "0.25", "samples": "10000"},
        ("l2", "l1", "linf"),
    ),
    Row(
        "smoothed-cnn",
        "`smoothed-cnn`, smoothing (sigma 0.5)",
        "smoothed-cnn",
        "smoothing",
        {"sigma": "0.5", "samples": "10000"},
        ("l2", "l1", "linf"),
    ),
    Row(
        "smoothed-cnn-075",
        "`smoothed-cnn-075`, smoothing (sigma 0.75)",
        "smoothed-cnn-075",
        "smoothing",
        {"sigma": "0.75", "samples": "10000"},
        ("l2", "l1", "linf"),
    ),
    Row("cnn-ablation", "`cnn`, ablation", "cnn", "ablation", {"samples": "10000"}, ("l0",)),
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
        "82.0 % at L2 1.5 (sigma 0.5); 45 % at 2.0 (sigma 1)",
        "holds with probability 99.9 % an image",
        "Jeong et al. 2021, arXiv 2111.09277",
    ),
)
