"""What the page answers, without a page: a decision at once, then one proof after the other."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from absynth.attacks import find_attack
from absynth.certify import Certifier
from absynth.data.adapt import read_image
from absynth.data.domain import DIGITS, Domain
from absynth.data.sketch import read_sketch
from absynth.demo.fragments import (
    TITLES,
    adversarial_step,
    certificates,
    notice,
    reconstructions,
    smallest_change,
    verdict,
    welcome,
)
from absynth.demo.guest import Guest
from absynth.errors import AbsynthError
from absynth.inference.abs import ABS
from absynth.inference.decision import Decision, decide, decisions
from absynth.models.pretrained import PretrainedModel
from absynth.norms import Norm, distance
from absynth.report.sentences import describe_adversarial, describe_rule
from absynth.shapes import Images, Labels


@dataclass(frozen=True, eq=False)
class Subject:
    """An image under examination.

    Attributes:
        image: Shape (1, 1, height, width).
        decision: What ABS says.
        codebook_label: What the certified codebook says, shape (1,).
    """

    image: Images
    decision: Decision
    codebook_label: Labels


@dataclass(frozen=True, eq=False)
class Change:
    """The smallest adversarial of a subject.

    Attributes:
        subject: Whose.
        adversarial: Shape (1, 1, height, width).
    """

    subject: Subject
    adversarial: Images


@dataclass(frozen=True, eq=False)
class Answer:
    """What is said to an image at once, as HTML; a part with nothing to say is empty.

    Attributes:
        notice: A hint, or why there is no answer.
        verdict: What the models decide.
        reconstructions: The best copy of every class.
        subject: The image, if there is one to prove something about.
    """

    notice: str = ""
    verdict: str = ""
    reconstructions: str = ""
    subject: Subject | None = None


@dataclass(frozen=True, eq=False)
class Proof:
    """What is proven of a subject so far, as HTML; a part with nothing to say is empty.

    Attributes:
        certificates: What is proven in each norm.
        sentence: On the smallest adversarial.
        change: The smallest adversarial, once it is found.
        pictures: The first step to it.
    """

    certificates: str = ""
    sentence: str = ""
    change: Change | None = None
    pictures: str = ""


@dataclass(frozen=True, eq=False)
class Example:
    """What the page shows before anything was asked.

    Attributes:
        message: What it is.
        answer: To the first test image.
        proof: All that is proven of it.
        guest: What a user's model says, as HTML; empty if there is none.
    """

    message: str
    answer: Answer
    proof: Proof
    guest: str = ""


class Examiner:
    """Answers to an image, wherever it comes from, and proves what can be proven of it.

    Args:
        abs_model: Decides and synthesises.
        codebook: Is certified: a classifier by prototypes, perhaps with something in front.
        cnn: For contrast, if there is one.
        images: To choose from.
        labels: Theirs.
        domain: What the models are for.
        guest: A user's model to show beside them, if there is one.
    """

    def __init__(
        self,
        abs_model: ABS,
        codebook: PretrainedModel,
        cnn: PretrainedModel | None,
        images: Images,
        labels: Labels,
        domain: Domain = DIGITS,
        guest: Guest | None = None,
    ) -> None:
        self.guest = guest
        self.abs_model = abs_model
        self.codebook = codebook
        self.certifier = Certifier(codebook)
        self.cnn = cnn
        self.images = images
        self.labels = labels
        self.domain = domain
        self.welcome = welcome(domain)
        # A drawing is light on dark where the images are, by their rims.
        rims = [images[..., [0, -1], :].flatten(), images[..., [0, -1]].flatten()]
        self.dark = bool(torch.cat(rims).median() < 0.5)

    @cached_property
    def example(self) -> Example:
        """The first test image with all answers, found once."""
        given = self.choose(0)
        *_, proof = self.prove(given.subject)
        *_, guest = self.prove_guest(given.subject)
        return Example(welcome(self.domain, 0), given, proof, guest)

    @torch.no_grad()
    def examine(self, image: Images, truth: int | None = None) -> Answer:
        """What is known at once.

        Args:
            image: Shape (1, 1, height, width).
            truth: Its label, if it is known.
        """
        synthesis = self.abs_model.infer(image)
        (decision,) = decisions(synthesis.logits, synthesis.probabilities)
        subject = Subject(image, decision, self.codebook(image).argmax(dim=1))
        return Answer(
            verdict=verdict(image, decision, self._contrast(image), truth, self.domain),
            reconstructions=reconstructions(synthesis, decision, self.domain),
            subject=subject,
        )

    def _contrast(self, image: Images) -> Decision | None:
        return None if self.cnn is None else decide(self.cnn, image)[0]

    def draw(self, sketch: object) -> Answer:
        """Answers to a drawing; what is no text is none."""
        if not sketch or not isinstance(sketch, str):
            return Answer(self.welcome)
        return self._try(lambda: (read_sketch(sketch, self.domain, dark=self.dark), None))

    def upload(self, path: str | None) -> Answer:
        """Answers to a picture file; there is none once it has been taken away."""
        if path is None:
            return Answer(self.welcome)
        return self._try(lambda: (read_image(path, self.domain, Path(path).name), None))

    def choose(self, number: float | None) -> Answer:
        """Answers to the number of a test image."""

        def read() -> tuple[Tensor, int | None]:
            if number is None or number not in range(len(self.images)):
                raise AbsynthError(
                    f"There is no such test image; give a whole number from 0 to {len(self.images) - 1}."
                )
            return self.images[int(number)], int(self.labels[int(number)])

        return self._try(read)

    def draw_lot(self) -> int:
        """The number of a random test image."""
        return random.randrange(len(self.images))

    def _try(self, read: Callable[[], tuple[Tensor, int | None]]) -> Answer:
        """Examines what ``read`` gives, an image and its label if known, or says what is wrong with it."""
        try:
            image, truth = read()
        except AbsynthError as error:
            return Answer(notice(str(error), "error"))
        return self.examine(image[None], truth)

    def prove(self, subject: Subject | None) -> Iterator[Proof]:
        """One certificate after the other, then the smallest adversarial."""
        if subject is None:
            yield Proof()
            return
        image, labels = subject.image, subject.codebook_label
        label = int(labels)
        remark = describe_rule(label, subject.decision, self.domain)
        radii: dict[Norm, float] = {}
        yield Proof(certificates(radii, remark))
        # The exact radius in L2 comes last, with its adversarial.
        for norm in (norm for norm in TITLES if norm != "l2"):
            radii[norm] = float(self.certifier.certify(image, labels, norm).radius)
            yield Proof(certificates(radii, remark))
        radius, adversarial = self._nearest(image, labels)
        radii["l2"] = radius
        proofs = certificates(radii, remark)
        if adversarial is None:
            yield Proof(proofs, smallest_change("No change was found that fools it."))
            return
        change = Change(subject, adversarial)
        found = float(distance(image, change.adversarial, "l2"))
        after = int(self.codebook(change.adversarial).argmax(dim=1))
        names = self.domain.class_names
        sentence = smallest_change(describe_adversarial(found, radii["l2"], names[label], names[after]))
        yield Proof(proofs, sentence, change, self.step(change, 0))

    def _nearest(self, image: Images, labels: Labels) -> tuple[float, Images | None]:
        """The proven L2 radius, and the smallest adversarial that the proof or an attack finds, if any."""
        exact = self.certifier.certify(image, labels, "l2", exact=True)
        if exact.adversarials is not None:
            found = exact.adversarials if bool(exact.adversarials.isfinite().all()) else None
        else:
            attacked = find_attack("ddn", "l2", suite="quick")(self.codebook, image, labels)
            found = attacked.adversarials if bool(attacked.success) else None
        return float(exact.radius), found

    def prove_guest(self, subject: Subject | None) -> Iterator[str]:
        """What a user's model says of a subject, and its proofs as they come; nothing if there is none."""
        if subject is None or self.guest is None:
            yield ""
            return
        yield from self.guest.prove(subject.image)

    def step(self, change: Change | None, percent: float | None) -> str:
        """The image so many percent of the way to its adversarial."""
        if change is None or percent is None or not 0 <= percent <= 100:
            return ""
        image = change.subject.image
        changed = torch.lerp(image, change.adversarial, percent / 100)
        decision = change.subject.decision if percent == 0 else decide(self.abs_model, changed)[0]
        plain = self._contrast(changed)
        labels = (int(change.subject.codebook_label), int(self.codebook(changed).argmax(dim=1)))
        size = float(distance(image, changed, "l2"))
        return adversarial_step(image, changed, labels, decision, plain, size, self.domain)
