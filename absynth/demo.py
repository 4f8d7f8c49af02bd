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
from absynth.data import load_dataset
from absynth.data.adapt import read_image
from absynth.data.domain import DIGITS, Domain
from absynth.data.sketch import read_sketch
from absynth.evaluate.data import choose_data, read_for
from absynth.inference.abs import ABS
from absynth.inference.codebook import CodebookABS
from absynth.inference.decision import Decision, decide, decisions
from absynth.models.pretrained import PretrainedModel
from absynth.norms import Norm, distance
from absynth.recipes import FAST
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


Answer = tuple[str, str, str, Subject | None]
"""Notice, verdict, reconstructions and subject."""

Proof = tuple[str, str, Change | None, Any, str]
"""Certificates, sentence on the adversarial, change, the slider and its pictures."""


def welcome(domain: Domain) -> str:
    """What the page says before there is anything to answer."""
    if domain.digits:
        return "Draw a digit, upload a picture of one, or take a test image."
    return "Draw, upload a picture, or take a test image."


def introduction(domain: Domain) -> str:
    """What the page is about, in a heading and a few sentences."""
    what, each = ("a digit", "digit") if domain.digits else ("an image", "class")
    return (
        f"<h1>Draw {what}, and see what can be proven about it</h1><p>This reader explains an image by "
        f"drawing it anew: one small model for each {each} tries, and the best copy decides. That makes it "
        "hard to fool, and how hard is proven here for every single image, yours too.</p>"
    )


class Examiner:
    """What the page answers with.

    Args:
        abs_model: Decides and synthesises.
        codebook: Is certified.
        cnn: For contrast, if there is one.
        images: To choose from.
        labels: Theirs.
        domain: What the models are for.
    """

    def __init__(
        self,
        abs_model: ABS,
        codebook: CodebookABS,
        cnn: PretrainedModel | None,
        images: Images,
        labels: Labels,
        domain: Domain = DIGITS,
    ) -> None:
        self.abs_model = abs_model
        self.codebook = codebook
        self.certifier = Certifier(codebook)
        self.cnn = cnn
        self.images = images
        self.labels = labels
        self.domain = domain
        self.welcome = notice(welcome(domain))
        # A drawing is light on dark where the images are, by their rims.
        rims = [images[..., [0, -1], :].flatten(), images[..., [0, -1]].flatten()]
        self.dark = bool(torch.cat(rims).median() < 0.5)

    @torch.no_grad()
    def examine(self, image: Images, truth: int | None = None) -> Answer:
        """What is known at once."""
        synthesis = self.abs_model.infer(image)
        (decision,) = decisions(synthesis.logits, synthesis.probabilities)
        subject = Subject(image, decision, self.codebook(image).argmax(dim=1))
        answer = verdict(image, decision, self._contrast(image), truth, self.domain)
        return "", answer, reconstructions(synthesis, decision, self.domain), subject

    def _contrast(self, image: Images) -> Decision | None:
        return None if self.cnn is None else decide(self.cnn, image)[0]

    def draw(self, sketch: str | None) -> Answer:
        """Answers to a drawing."""
        if not sketch:
            return self.welcome, "", "", None
        return self._try(lambda: (read_sketch(sketch, self.domain, dark=self.dark), None))

    def upload(self, path: str) -> Answer:
        """Answers to a picture file."""
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
            return notice(str(error), "error"), "", "", None
        return self.examine(image[None], truth)

    def prove(self, subject: Subject | None) -> Iterator[Proof]:
        """One certificate after the other, then the smallest adversarial."""
        if subject is None:
            yield "", "", None, gr.Slider(visible=False), ""
            return
        image, labels = subject.image, subject.codebook_label
        label = int(labels)
        remark = describe_rule(label, subject.decision, self.domain)
        radii: dict[Norm, float] = {}
        yield certificates(radii, remark), "", None, gr.Slider(visible=False), ""
        # The exact radius in L2 comes last, with its adversarial.
        for norm in (norm for norm in TITLES if norm != "l2"):
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
        names = self.domain.class_names
        sentence = smallest_change(describe_adversarial(found, radii["l2"], names[label], names[after]))
        yield proofs, sentence, change, gr.Slider(value=0, visible=True), self.step(change, 0)

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


def load_examiner(model: str | None = None, data: str | None = None) -> Examiner:
    """Models and test images, warmed up: the first question is the slowest.

    Args:
        model: Folder of an ABS or a codebook ABS, which answers alone; by default the shipped models.
        data: Its data, of which the test split is shown.

    Raises:
        AbsynthError: If the model is of another kind, or the data cannot be read.
    """
    examiner = _shipped_examiner() if model is None else _own_examiner(model, choose_data([model], data))
    *_, subject = examiner.choose(0)
    for _ in examiner.prove(subject):
        pass
    return examiner


def _shipped_examiner() -> Examiner:
    abs_model, codebook = load("abs"), load("codebook-abs")
    assert isinstance(abs_model, ABS)
    assert isinstance(codebook, CodebookABS)
    return Examiner(abs_model, codebook, load("cnn"), *load_dataset("mnist", "test"))


def _own_examiner(name: str, data: str) -> Examiner:
    model = load(name)
    domain = model.domain
    dataset = read_for([name], data, "test")
    if isinstance(model, CodebookABS):
        model = ABS(model, FAST)
        model.prepare()
    if not isinstance(model, ABS):
        raise AbsynthError(f"'{name}' is a {model.type_name}; the demo needs an ABS or a codebook ABS.")
    # The codebook that the search starts from is a classifier of its own, and one that can be certified.
    return Examiner(model.eval(), model.codebook, None, dataset.images, dataset.labels, domain)


def build_page(examiner: Examiner) -> gr.Blocks:
    """The page and what happens on it: an answer at once, the proofs as they come."""
    options: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    page = gr.Blocks(title="absynth", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS))
    with page, gr.Column(elem_classes="absynth"):
        gr.HTML(introduction(examiner.domain), apply_default_css=False)
        with gr.Row(elem_classes="desk"):
            with gr.Column(elem_classes="paper"):
                sketch = gr.HTML(
                    html_template=(TEMPLATES / "sketch.html").read_text(encoding="utf-8"),
                    js_on_load=(TEMPLATES / "sketch.js").read_text(encoding="utf-8"),
                    apply_default_css=False,
                )
            with gr.Column(elem_classes="answers"):
                message = gr.HTML(examiner.welcome, apply_default_css=False, elem_id="message")
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
        # One after the other, so that the last word is had by what was used last. Nothing is cancelled: what
        # has hardly begun cannot be, and the proofs of one image take less than a second.
        options["trigger_mode"] = "always_last"
        subject.change(examiner.prove, subject, [proofs, found, change, slider, pictures], **options)
        latest: dict[str, Any] = {"concurrency_id": "examine", **options}
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


def serve(host: str, port: int, model: str | None = None, data: str | None = None) -> gr.Blocks:
    """Starts the page in the background; ``block_thread`` of what is returned waits until it is stopped.

    Args:
        host: Address to listen at: 127.0.0.1 for this machine alone, 0.0.0.0 for all that reach it.
        port: Port to listen at.
        model: As for :func:`load_examiner`.
        data: As for :func:`load_examiner`.

    Raises:
        AbsynthError: As for :func:`load_examiner`, or if the port is taken or there is no such address.
    """
    page = build_page(load_examiner(model, data))
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
