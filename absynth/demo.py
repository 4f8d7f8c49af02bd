"""The page of ``absynth demo``: puts the library behind a sheet of paper."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absynth.errors import AbsynthError

try:
    import gradio as gr
except ImportError:
    raise AbsynthError("The demo needs gradio; install it with: pip install 'absynth[demo]'.") from None

import torch
from torch import Tensor

from absynth.certify import Certifier
from absynth.data import load_dataset, read_digit
from absynth.data.sketch import read_sketch
from absynth.inference.abs import ABS
from absynth.inference.codebook import CodebookABS
from absynth.inference.decision import Decision, decide, decisions
from absynth.models.pretrained import PretrainedModel
from absynth.norms import Norm, distance
from absynth.report.fragments import (
    TITLES,
    adversarial_step,
    certificates,
    notice,
    reconstructions,
    smallest_change,
    verdict,
)
from absynth.report.sentences import describe_adversarial, describe_rule
from absynth.shapes import Images, Labels
from absynth.zoo import load

TEMPLATES = Path(__file__).parent / "report" / "templates"
UPLOADS = [".png", ".jpg", ".jpeg", ".npy"]
LARGEST_UPLOAD = "20mb"
"""More than a phone's photograph has."""

KEPT_SECONDS = 3600
"""How long an uploaded file stays on the disk."""

WELCOME = "Draw a digit, upload a picture of one, or take a test image."
INTRODUCTION = (
    "<h1>Draw a digit, and see what can be proven about it</h1><p>This reader explains an image by drawing "
    "it anew: one small model for each digit tries, and the best copy decides. That makes it hard to fool, "
    "and how hard is proven here for every single image, yours too.</p>"
)


@dataclass(frozen=True, eq=False)
class Subject:
    """An image under examination.

    Attributes:
        image: Shape (1, 1, 28, 28).
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
        adversarial: Shape (1, 1, 28, 28).
    """

    subject: Subject
    adversarial: Images


Answer = tuple[str, str, str, Subject | None]
"""Notice, verdict, reconstructions and subject."""

Proof = tuple[str, str, Change | None, Any, str]
"""Certificates, sentence on the adversarial, change, the slider and its pictures."""


class Examiner:
    """What the page answers with.

    Args:
        abs_model: Decides and synthesises.
        codebook: Is certified.
        cnn: For contrast.
        images: To choose from.
        labels: Theirs.
    """

    def __init__(
        self, abs_model: ABS, codebook: CodebookABS, cnn: PretrainedModel, images: Images, labels: Labels
    ) -> None:
        self.abs_model = abs_model
        self.codebook = codebook
        self.certifier = Certifier(codebook)
        self.cnn = cnn
        self.images = images
        self.labels = labels

    @torch.no_grad()
    def examine(self, image: Images, truth: int | None = None) -> Answer:
        """What is known at once."""
        synthesis = self.abs_model.infer(image)
        (decision,) = decisions(synthesis.logits, synthesis.probabilities)
        (plain,) = decide(self.cnn, image)
        subject = Subject(image, decision, self.codebook(image).argmax(dim=1))
        return "", verdict(image, decision, plain, truth), reconstructions(synthesis, decision), subject

    def draw(self, sketch: str | None) -> Answer:
        """Answers to a drawing."""
        if not sketch:
            return notice(WELCOME), "", "", None
        return self._try(lambda: (read_sketch(sketch), None))

    def upload(self, path: str) -> Answer:
        """Answers to a picture file."""
        return self._try(lambda: (read_digit(path, Path(path).name), None))

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
            return notice(str(error), "error"), "", "", None
        return self.examine(image[None], truth)

    def prove(self, subject: Subject | None) -> Iterator[Proof]:
        """One certificate after the other, then the smallest adversarial."""
        if subject is None:
            yield "", "", None, gr.Slider(visible=False), ""
            return
        image, labels = subject.image, subject.codebook_label
        label = int(labels)
        remark = describe_rule(label, subject.decision)
        radii: dict[Norm, float] = {}
        yield certificates(radii, remark), "", None, gr.Slider(visible=False), ""
        for norm in TITLES:
            radii[norm] = float(self.certifier.certify(image, labels, norm).radius)
            yield certificates(radii, remark), "", None, gr.Slider(visible=False), ""
        exact = self.certifier.certify(image, labels, "l2", exact=True)
        radii["l2"] = float(exact.radius)
        proofs = certificates(radii, remark)
        assert exact.adversarials is not None
        if not exact.adversarials.isfinite().all():
            yield (
                proofs,
                smallest_change("No change was found that fools it."),
                None,
                gr.Slider(visible=False),
                "",
            )
            return
        change = Change(subject, exact.adversarials)
        found = float(distance(image, change.adversarial, "l2"))
        after = int(self.codebook(change.adversarial).argmax(dim=1))
        sentence = smallest_change(describe_adversarial(found, radii["l2"], label, after))
        yield proofs, sentence, change, gr.Slider(value=0, visible=True), self.step(change, 0)

    def step(self, change: Change | None, percent: float | None) -> str:
        """The image so many percent of the way to its adversarial."""
        if change is None or percent is None or not 0 <= percent <= 100:
            return ""
        image = change.subject.image
        changed = torch.lerp(image, change.adversarial, percent / 100)
        (decision,), (plain,) = decide(self.abs_model, changed), decide(self.cnn, changed)
        labels = (int(change.subject.codebook_label), int(self.codebook(changed).argmax(dim=1)))
        size = float(distance(image, changed, "l2"))
        return adversarial_step(image, changed, labels, decision, plain, size)


def load_examiner() -> Examiner:
    """The shipped models and the test images of MNIST, warmed up: the first question is the slowest."""
    abs_model, codebook = load("abs"), load("codebook-abs")
    assert isinstance(abs_model, ABS)
    assert isinstance(codebook, CodebookABS)
    examiner = Examiner(abs_model, codebook, load("cnn"), *load_dataset("mnist", "test"))
    *_, subject = examiner.choose(0)
    for _ in examiner.prove(subject):
        pass
    return examiner


def build_page(examiner: Examiner) -> gr.Blocks:
    """The page and what happens on it: an answer at once, the proofs as they come."""
    options: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    page = gr.Blocks(title="absynth", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS))
    with page, gr.Column(elem_classes="absynth"):
        gr.HTML(INTRODUCTION, apply_default_css=False)
        with gr.Row(elem_classes="desk"):
            with gr.Column(elem_classes="paper"):
                sketch = gr.HTML(
                    html_template=(TEMPLATES / "sketch.html").read_text(encoding="utf-8"),
                    js_on_load=(TEMPLATES / "sketch.js").read_text(encoding="utf-8"),
                    apply_default_css=False,
                )
            with gr.Column(elem_classes="answers"):
                message = gr.HTML(notice(WELCOME), apply_default_css=False, elem_id="message")
                answer = gr.HTML(apply_default_css=False, elem_id="answer")
                copies = gr.HTML(apply_default_css=False, elem_id="copies")
            with gr.Column(elem_classes="sources"):
                upload = gr.UploadButton("Upload a picture", file_types=UPLOADS)
                with gr.Row():
                    lot = gr.Button("Any test image", min_width=120)
                    number = gr.Number(label="Test image number", precision=0, min_width=120)
        proofs = gr.HTML(apply_default_css=False, elem_id="proofs")
        found = gr.HTML(apply_default_css=False, elem_id="found")
        slider = gr.Slider(
            0, 100, 0, step=1, label="from the original (0) to the adversarial (100)", visible=False
        )
        pictures = gr.HTML(apply_default_css=False, elem_id="pictures")
        subject, change = gr.State(), gr.State()

        answers = [message, answer, copies, subject]
        proving = subject.change(
            examiner.prove,
            subject,
            [proofs, found, change, slider, pictures],
            trigger_mode="multiple",
            **options,
        )
        options["trigger_mode"] = "always_last"
        # One after the other, whatever was used, so that the last word is had by what was used last.
        latest: dict[str, Any] = {"cancels": [proving], "concurrency_id": "examine", **options}
        sketch.input(examiner.draw, sketch, answers, **latest)
        upload.upload(examiner.upload, upload, answers, **latest)
        typed = [number.input, number.submit]
        gr.on(typed, examiner.choose, number, answers, **latest)
        drawn = lot.click(examiner.draw_lot, None, number, **options)
        drawn.then(examiner.choose, number, answers, **latest)
        for other_source in (upload.upload, lot.click, *typed):
            other_source(None, None, sketch, js="() => ''")
        slider.input(examiner.step, [change, slider], pictures, **options)
    return page


def serve(host: str, port: int) -> gr.Blocks:
    """Starts the page in the background; ``block_thread`` of what is returned waits until it is stopped.

    Args:
        host: Address to listen at: 127.0.0.1 for this machine alone, 0.0.0.0 for all that reach it.
        port: Port to listen at.

    Raises:
        AbsynthError: If the port is taken, or there is no such address.
    """
    page = build_page(load_examiner())
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            ssr_mode=False,
            prevent_thread_lock=True,
            max_file_size=LARGEST_UPLOAD,
            footer_links=[],
            theme=gr.themes.Default(
                font=["system-ui", "sans-serif"],
                font_mono=["ui-monospace", "monospace"],
                primary_hue="emerald",
            ),
            css_paths=TEMPLATES / "demo.css",
        )
    except OSError:
        raise AbsynthError(
            f"The page cannot be served at {host}:{port}; free that port, or choose with --host and --port."
        ) from None
    return page
