"""A user's model beside ours: its decision at once, and what can be proven of it within a time limit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from queue import Empty, Queue
from threading import Event, Lock, Thread

from torch import Tensor, nn

from absynth.certify import Certifier, certifying_method
from absynth.data.domain import DIGITS, Domain
from absynth.demo.fragments import TITLES, beside
from absynth.errors import AbsynthError
from absynth.inference.decision import decide
from absynth.models.asked import answer
from absynth.norms import Norm
from absynth.report.sentences import describe_decision
from absynth.shapes import Images

SECONDS = 20.0
"""How long the proofs of an image may take."""

LOOKS = 0.2
"""Seconds between two looks at whether the next image is asked about already."""


class Guest:
    """A user's classifier, which is asked about the images that ours are asked about.

    Its proofs are computed in a thread, one image at a time, so that the page goes on answering. A thread
    cannot be stopped within one proof: what is over its time is let go of, and ends by itself.

    Args:
        name: What it was loaded by.
        model: From images of shape (1, 1, height, width) to logits.
        image: One to try it on.
        domain: What it is for.
        seconds: How long the proofs of an image may take, all norms together.

    Raises:
        AbsynthError: If it does not tell the classes of the domain apart.
    """

    def __init__(
        self, name: str, model: nn.Module, image: Images, domain: Domain = DIGITS, seconds: float = SECONDS
    ) -> None:
        classes = answer(model, image).shape[1]
        if classes != len(domain.class_names):
            raise AbsynthError(
                f"'{name}' tells {classes} classes apart, and the models of the demo "
                f"{len(domain.class_names)}; give one for the same classes."
            )
        self.name = name
        self.model = model
        self.domain = domain
        self.seconds = seconds
        # Made once, and first asked before the page is served: PyTorch traces a network by changing how any
        # module is called, and meanwhile no other model can be asked.
        self._certifier: Certifier | None = None
        self._refusal = "what is known is an estimate"
        self.method = ""
        try:
            found = certifying_method(model)
            certifier = Certifier(model)
        except AbsynthError as error:
            self._refusal = str(error)
        else:
            if found is not None and found[1].proven:
                self._certifier, self.method = certifier, found[0].name
        self._one_at_a_time = Lock()
        self._let_go = Event()

    def prove(self, image: Images) -> Iterator[str]:
        """Its decision and its proofs as HTML, with each norm anew, until another image is asked about.

        Args:
            image: Shape (1, 1, height, width).
        """
        self._let_go.set()
        let_go = self._let_go = Event()
        (decision,) = decide(self.model, image)
        known: dict[Norm, float | str] = {}
        words = describe_decision(decision, self.domain)
        yield beside(self.name, words, self.method, known)
        answers: Queue[float | str] = Queue()
        label = answer(self.model, image).argmax(1)
        Thread(target=self._certify, args=(image, label, let_go, answers), daemon=True).start()
        end = time.monotonic() + self.seconds
        for norm in TITLES:
            while norm not in known:
                try:
                    known[norm] = answers.get(timeout=LOOKS)
                except Empty:
                    if let_go.is_set():
                        return
                    if time.monotonic() > end:
                        let_go.set()
                        late = f"it takes longer than {self.seconds:g} seconds"
                        yield beside(self.name, words, self.method, dict.fromkeys(TITLES, late) | known)
                        return
            yield beside(self.name, words, self.method, known)

    def _certify(self, image: Images, label: Tensor, let_go: Event, answers: Queue[float | str]) -> None:
        """Puts the radius of each norm, or why there is none, into ``answers``."""
        with self._one_at_a_time:
            for norm in TITLES:
                if let_go.is_set():
                    return
                if self._certifier is None:
                    answers.put(self._refusal)
                    continue
                try:
                    answers.put(float(self._certifier.certify(image, label, norm).radius))
                except AbsynthError as error:
                    answers.put(str(error))
                except Exception as error:  # of a user's model, which must not leave the page waiting
                    answers.put(f"{type(error).__name__}: {error}")
