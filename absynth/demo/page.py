"""The page itself, and what happens on it. The only module that imports gradio."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from absynth.data.pictures import SUFFIXES
from absynth.demo.examiner import Answer, Change, Examiner, Proof, Subject
from absynth.demo.fragments import introduction
from absynth.errors import AbsynthError

try:
    import gradio as gr
except ImportError:
    raise AbsynthError("The demo needs gradio; install it with: pip install 'absynth[demo]'.") from None

Page: TypeAlias = gr.Blocks

TEMPLATES = Path(__file__).parent / "templates"
UPLOADS = list(SUFFIXES)

KEPT_SECONDS = 3600
"""How long an uploaded file stays on the disk."""

APPEARANCE: dict[str, Any] = {
    "footer_links": [],
    "theme": gr.themes.Default(
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
        primary_hue="emerald",
    ),
    "css_paths": TEMPLATES / "demo.css",
}
"""What the page looks like, which gradio asks for when it is served."""


def build_page(examiner: Examiner) -> Page:
    """The page and what happens on it: an example, then an answer at once, and the proofs as they come."""
    options: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    example = examiner.example
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
                message = gr.HTML(example.message, apply_default_css=False, elem_id="message")
                answer = gr.HTML(example.answer.verdict, apply_default_css=False, elem_id="answer")
                copies = gr.HTML(example.answer.reconstructions, apply_default_css=False, elem_id="copies")
            with gr.Column(elem_classes="sources"):
                upload = gr.UploadButton("Upload a picture", file_types=UPLOADS)
                with gr.Row():
                    lot = gr.Button("Any test image", min_width=120)
                    number = gr.Number(label="Test image number", precision=0, min_width=120)
        proofs = gr.HTML(example.proof.certificates, apply_default_css=False, elem_id="proofs")
        if examiner.guest is not None:
            guest = gr.HTML(example.guest, apply_default_css=False, elem_id="guest")
        found = gr.HTML(example.proof.sentence, apply_default_css=False, elem_id="found")
        slider = gr.Slider(
            0,
            100,
            0,
            step=1,
            label="from the original (0) to the adversarial (100)",
            visible=example.proof.change is not None,
        )
        pictures = gr.HTML(example.proof.pictures, apply_default_css=False, elem_id="pictures")
        subject, change = gr.State(), gr.State(example.proof.change)

        answers = [message, answer, copies, subject]
        # One after the other, so that the last word is had by what was used last. Nothing is cancelled: what
        # has hardly begun cannot be, and the proofs of one image take less than a second.
        if examiner.guest is not None:
            # its proofs take many seconds, and end where those of the next image begin
            at_once: dict[str, Any] = {"trigger_mode": "multiple", "concurrency_limit": None}
            subject.change(examiner.prove_guest, subject, guest, **options, **at_once)
        options["trigger_mode"] = "always_last"
        subject.change(proving(examiner), subject, [proofs, found, change, slider, pictures], **options)
        latest: dict[str, Any] = {"concurrency_id": "examine", **options}
        sketch.input(answering(examiner.draw), sketch, answers, **latest)
        upload.upload(answering(examiner.upload), upload, answers, **latest)
        typed = [number.input, number.submit]
        gr.on(typed, answering(examiner.choose), number, answers, **latest)
        drawn = lot.click(examiner.draw_lot, None, number, **options)
        drawn.then(answering(examiner.choose), number, answers, **latest)
        for other_source in (upload.upload, lot.click, *typed):
            other_source(None, None, sketch, js="() => ''")
        slider.input(examiner.step, [change, slider], pictures, **options)
    return page


def answering(examine: Callable[[Any], Answer]) -> Callable[[Any], tuple[str, str, str, Subject | None]]:
    """A way to examine, with its answer as the page's parts: message, answer, copies and subject."""

    def answer(source: Any) -> tuple[str, str, str, Subject | None]:
        given = examine(source)
        return given.notice, given.verdict, given.reconstructions, given.subject

    return answer


def proving(
    examiner: Examiner,
) -> Callable[[Subject | None], Iterator[tuple[str, str, Change | None, gr.Slider, str]]]:
    """The examiner's proofs as the page's parts: proofs, found, change, slider and pictures."""

    def prove(subject: Subject | None) -> Iterator[tuple[str, str, Change | None, gr.Slider, str]]:
        for proof in examiner.prove(subject):
            yield proof.certificates, proof.sentence, proof.change, place_slider(proof), proof.pictures

    return prove


def place_slider(proof: Proof) -> gr.Slider:
    """The slider, at the original; there is none without an adversarial to move it to."""
    return gr.Slider(visible=False) if proof.change is None else gr.Slider(value=0, visible=True)
