"""What a benchmark consists of: independent tasks, each one attack on one model and a few images."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from absynth.attacks.averaged import DRAWS
from absynth.attacks.base import Attack
from absynth.attacks.suites import MISFIT, OUTSIDE, suite_attacks
from absynth.certify.provers import METHODS
from absynth.errors import AbsynthError
from absynth.models.asked import answer, inside
from absynth.models.held import held_networks
from absynth.models.pretrained import domain_of
from absynth.norms import NORMS, Norm
from absynth.shapes import Images, Labels
from absynth.zoo import model_names


@dataclass(frozen=True)
class Task:
    """One attack on one model and some images; ``key`` names its records.

    Attributes:
        model: Name or folder of the model.
        weights: Hash of what the model computes with.
        norm: What the attack minimises.
        attack: Its name.
        settings: Its settings, as JSON.
        dataset: Name or path of the data set, of which the test split is used.
        data: Hash of that split.
        indices: Which of its images.
        seed: Of the attack.
    """

    model: str
    weights: str
    norm: Norm
    attack: str
    settings: str
    dataset: str
    data: str
    indices: tuple[int, ...]
    seed: int

    @property
    def key(self) -> str:
        """A hash of everything that the result depends on; names of model and data are not among it."""
        parts = (self.weights, self.norm, self.attack, self.settings, self.data, self.indices, self.seed)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Chosen:
    """An attack of a benchmark.

    Attributes:
        asked: What it was asked for by: its name in a suite, or a file and a function.
        attack: The attack itself.
        own: For an attack from a user's file, what records call it.
        source: For such an attack, a hash of the file and of what lies beside it.
    """

    asked: str
    attack: Attack
    own: str = ""
    source: str = ""

    @property
    def name(self) -> str:
        """What records call it."""
        return self.own or self.attack.name

    @property
    def settings(self) -> str:
        """What determines it besides name, norm and seed, as JSON."""
        source = {"source": self.source} if self.source else {}
        return json.dumps({**self.attack.settings, **source}, sort_keys=True)


@dataclass(frozen=True)
class Preset:
    """A benchmark: what is attacked, how, and on how many images.

    Attributes:
        models: What :func:`absynth.evaluate.models.load_classifier` takes.
        suite: Whose settings the attacks have.
        attacks: By norm, names in the suite, or users' own as ``my_file.py:make_attack``; none for the clean
            accuracy alone.
        images: How many test images are attacked.
        clean_images: How many test images the clean accuracy is measured on; all if there are fewer.
        shard: Images a task.
        dataset: Name or path of the data set.
        seed: Of the choice of images and of every attack.
        fewer_images: By attack, how many of the images it gets, where that is not all.
        instead_of: By attack, others that are left out in the same norm for a model to which it applies.
        thresholds: By norm, the distances at which to give accuracy, where they are not the paper's.
        allow_random: Whether a model that answers at random is attacked, by the mean of its logits.
        draws: Over how many answers.
        budget: Forward and backward passes, together, that an image may take of a user's own attack.
        certify_images: How many of the attacked images are certified, in the norms of the attacks, of every
            model that has proofs; none by default.
        fewer_certified: By method of certifying, how many of them it gets, where that is not all.
        courses: Whether to keep how the adversarials came nearer, pass by pass.
    """

    models: tuple[str, ...]
    suite: str
    attacks: Mapping[Norm, tuple[str, ...]]
    images: int
    clean_images: int
    shard: int = 50
    dataset: str = "mnist"
    seed: int = 0
    fewer_images: Mapping[str, int] = field(default_factory=dict)
    instead_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    thresholds: Mapping[Norm, tuple[float, ...]] = field(default_factory=dict)
    allow_random: bool = False
    draws: int = DRAWS
    budget: int | None = None
    certify_images: int = 0
    fewer_certified: Mapping[str, int] = field(default_factory=dict)
    courses: bool = False

    def __post_init__(self) -> None:
        """Sees that there is something to do and that its parts fit together.

        Raises:
            AbsynthError: If not.
        """
        counts = (self.images, self.clean_images, self.shard, self.draws, *self.fewer_images.values())
        if self.budget is not None and self.budget < 1:
            raise AbsynthError(f"The budget is {self.budget}; it must be at least 1.")
        if not self.models or min(counts) < 1:
            raise AbsynthError("A benchmark needs at least one model and one image.")
        if min(self.certify_images, *self.fewer_certified.values(), 0) < 0:
            raise AbsynthError("At least 0 images can be certified.")
        for name in self.fewer_certified:
            if name not in METHODS:
                raise AbsynthError(f"There is no method '{name}'; choose one of {', '.join(METHODS)}.")
        if len(set(self.models)) < len(self.models):
            raise AbsynthError(f"A model is named twice among {', '.join(self.models)}; name each once.")
        if self.seed < 0:
            raise AbsynthError(f"The seed is {self.seed}; it must be at least 0.")
        for name in self.fewer_images:
            if not any(name in names for names in self.attacks.values()):
                raise AbsynthError(f"Fewer images are asked for '{name}', which is none of the attacks.")
        for norm, sizes in self.thresholds.items():
            if not sizes or not all(0 < size < torch.inf for size in sizes):
                raise AbsynthError(f"The thresholds of {norm} must be numbers above 0, at least one.")

    @property
    def norms(self) -> tuple[Norm, ...]:
        """The norms that are attacked in."""
        return tuple(self.attacks)

    def images_for(self, attack: str) -> int:
        """How many images an attack gets."""
        return min(self.images, self.fewer_images.get(attack, self.images))

    def certified_by(self, method: str) -> int:
        """How many images a method of certifying gets."""
        count = min(self.images, self.certify_images)
        return min(count, self.fewer_certified.get(method, count))


def all_attacks(suite: str, norms: Iterable[Norm] = ("l2", "linf", "l0")) -> dict[Norm, tuple[str, ...]]:
    """The names of all attacks of a suite, by norm.

    Raises:
        AbsynthError: If there is no such suite, or it has nothing for one of the norms.

    >>> all_attacks("quick", ["l0"])
    {'l0': ('salt-and-pepper', 'pointwise', 'fmn')}
    """
    return {norm: tuple(attack.name for attack in suite_attacks(suite, norm)) for norm in norms}


MODELS = ("abs", "binary-abs", "codebook-abs", "cnn", "binary-cnn", "nearest-neighbour")
CERTIFIED = ("certified-abs", "certified-binary-abs")

PRESETS: dict[str, Preset] = {
    "clean": Preset(
        models=(*MODELS, "codebook-binary-abs"), suite="quick", attacks={}, images=1, clean_images=10_000
    ),
    "quick": Preset(
        models=("abs", "binary-abs", *CERTIFIED, "cnn", "binary-cnn"),
        suite="broad",
        attacks={
            "l2": ("ddn", "threshold"),
            "linf": ("fmn", "threshold"),
            "l0": ("fmn", "threshold"),
        },
        # where there is a threshold these take as long, and seldom find anything nearer
        instead_of={"threshold": ("ddn", "fmn")},
        images=10,
        clean_images=1000,
        certify_images=10,
        # seconds an image and norm
        fewer_certified={"crown": 0},
    ),
    "standard": Preset(
        models=model_names(),
        suite="strong",
        attacks=all_attacks("strong"),
        images=100,
        clean_images=10_000,
        # these ask the model thousands of times about each image
        fewer_images={"boundary": 20, "pointwise": 20, "carlini-wagner": 20, "sparse-search": 20},
        certify_images=100,
        fewer_certified={"crown": 20},
    ),
    "attacks": Preset(
        models=("codebook-abs", "certified-abs", "certified-binary-abs", "nearest-neighbour"),
        suite="every",
        attacks=all_attacks("every", NORMS),
        images=500,
        clean_images=10_000,
        # these ask the model thousands of times about each image
        fewer_images={
            "auto-attack": 50,
            "boundary": 50,
            "carlini-wagner": 50,
            "corner-search": 50,
            "ead": 50,
            "hop-skip-jump": 50,
            "pointwise": 50,
            "sparse-brendel-bethge": 50,
            "sparse-search": 50,
        },
    ),
    "paper": Preset(
        models=model_names(),
        suite="paper",
        attacks=all_attacks("paper"),
        images=1000,
        clean_images=10_000,
    ),
}


def find_preset(name: str) -> Preset:
    """The preset called ``name``.

    Raises:
        AbsynthError: If there is none.
    """
    if name not in PRESETS:
        raise AbsynthError(f"There is no preset '{name}'; choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over the names, types and values of all tensors, over the class and its config.

    Two models of equal hash decide alike, whatever they are called and wherever they are stored. A module
    without a config is told apart by how it prints. Networks that a model reaches and does not own count, too
    (:mod:`absynth.models.held`).
    """
    digest = hashlib.sha256(type(model).__qualname__.encode())
    if callable(config := getattr(model, "config", None)):
        digest.update(json.dumps(config(), sort_keys=True).encode())
    else:
        # neither an address nor how many files were loaded before says anything of the model
        printed = re.sub(r" at 0x[0-9a-f]+", "", repr(model))
        digest.update(re.sub(r"(absynth_(?:model|helpers)_[0-9a-f]{12})_[0-9]+", r"\1", printed).encode())
    for part in (model, *held_networks(model)):
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            content = tensor.detach().cpu().reshape(-1).view(torch.uint8)
            digest.update(content.numpy().tobytes())
    return digest.hexdigest()


def data_hash(images: Images, labels: Labels) -> str:
    """SHA-256 over the shape and the values of labelled images."""
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    digest.update(images.contiguous().numpy().tobytes())
    digest.update(labels.contiguous().numpy().tobytes())
    return digest.hexdigest()


def choose_images(total: int, count: int, seed: int) -> tuple[int, ...]:
    """``count`` of ``total`` images by a fixed random rule: a smaller choice is the start of a larger one.

    Raises:
        AbsynthError: If there are not that many.

    >>> choose_images(10, 3, seed=0) == choose_images(10, 5, seed=0)[:3]
    True
    """
    if not 1 <= count <= total:
        raise AbsynthError(f"{count} images were asked for; the data set has {total}, ask for 1 to {total}.")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return tuple(order[:count].tolist())


def plan(
    preset: Preset,
    attacks: Mapping[Norm, Sequence[Chosen]],
    name: str,
    model: nn.Module,
    *,
    weights: str,
    data: str,
    indices: Sequence[int],
    shape: torch.Size,
) -> list[Task]:
    """All tasks of one model, the attacks of a norm one after the other; those that do not apply left out.

    Args:
        preset: How many images.
        attacks: Which attacks, by norm.
        name: Of the model.
        model: The model itself.
        weights: Its hash.
        data: Hash of the test split.
        indices: Which of its images are attacked.
        shape: Of an image: channel, height, width.
    """
    tasks = []
    classes = _count_classes(attacks, model, shape)
    for norm, every in attacks.items():
        applying = [one for one in every if one.attack.applies_to(model) and one.attack.fits(shape, classes)]
        left_out = {name for one in applying for name in preset.instead_of.get(one.asked, ())}
        for one in applying:
            if one.asked in left_out:
                continue
            chosen = indices[: preset.images_for(one.asked)]
            for start in range(0, len(chosen), preset.shard):
                tasks.append(
                    Task(
                        model=name,
                        weights=weights,
                        norm=norm,
                        attack=one.name,
                        settings=one.settings,
                        dataset=preset.dataset,
                        data=data,
                        indices=tuple(chosen[start : start + preset.shard]),
                        seed=preset.seed,
                    )
                )
    return tasks


def misfits(
    attacks: Mapping[Norm, Sequence[Chosen]], name: str, model: nn.Module, shape: torch.Size
) -> tuple[str, ...]:
    """Which attacks are left out, as they bring along what the model does not fit; a sentence each.

    Args:
        attacks: Which attacks, by norm.
        name: Of the model.
        model: The model itself.
        shape: Of an image: channel, height, width.
    """
    classes = _count_classes(attacks, model, shape)
    left_out: dict[tuple[str, str], list[Norm]] = {}
    for norm, every in attacks.items():
        for one in every:
            if not one.attack.fits(shape, classes):
                left_out.setdefault((one.name, MISFIT), []).append(norm)
            elif not one.attack.applies_to(model) and one.attack.applies_to(inside(model)):
                left_out.setdefault((one.name, OUTSIDE), []).append(norm)
    return tuple(
        f"The attack '{attack}' ({', '.join(norms)}) was left out for {name}: {reason}"
        for (attack, reason), norms in left_out.items()
    )


def _count_classes(attacks: Mapping[Norm, Sequence[Chosen]], model: nn.Module, shape: torch.Size) -> int:
    """How many classes a model tells apart, if anything is attacked."""
    if (domain := domain_of(model)) is not None:
        return len(domain.class_names)
    return answer(model, torch.zeros(1, *shape, device="cpu")).shape[1] if attacks else 0
