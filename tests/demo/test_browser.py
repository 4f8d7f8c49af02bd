"""The page as a person meets it: ``absynth demo`` driven in a real browser."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

WAIT = 120_000
"""Milliseconds; a machine that does much else is slow."""

EMPTY_SHEET = """() => {
  const canvas = document.querySelector('canvas');
  const sheet = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return sheet.data.every(value => value === 255);
}"""

OF_A_DRAWING = """() => {
  const answer = document.querySelector('#answer');
  return answer.querySelector('.verdict') && !answer.textContent.includes('labelled');
}"""
"""Not of a test image, such as the example that the page opens with."""

SAME_PICTURE = """() => {
  const [asked, proven] = ['#answer img', '#pictures img'].map(path => document.querySelector(path));
  return asked && proven && asked.src === proven.src;
}"""

OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


MINE = """
import torch

import absynth

def make():
    # the nearest mean of each class, as a linear model
    images, labels = absynth.load_dataset("mnist", "test")
    means = torch.stack([images[labels == label].flatten(1).mean(0) for label in range(10)])
    layer = torch.nn.Linear(784, 10)
    layer.weight.data, layer.bias.data = 2 * means, -means.square().sum(1)
    return torch.nn.Sequential(torch.nn.Flatten(), layer)
"""


def unavailable(reason: str) -> None:
    """Skips, but fails where everything that a test needs must be there."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason} With CI set, the browser test must run.")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        unavailable("Playwright is not installed.")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        unavailable("There is no Chromium on the path.")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(browser, tmp_path_factory) -> Iterator[str]:
    """Of the running demo with a user's model; asks for the browser first, so as to start nothing in vain."""
    mine = tmp_path_factory.mktemp("mine") / "mine.py"
    mine.write_text(MINE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "absynth.cli", "demo", "--port", str(port), "--model", "mine.py:make"]
    # where the suite runs in the background it ignores Ctrl-C, and the demo would, too
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=mine.parent, **pipes) as server:
        signal.signal(signal.SIGINT, before)
        lines = iter(server.stdout.readline, "")
        url = next((line.split()[1] for line in lines if line.startswith("Open ")), None)
        assert url is not None, server.stderr.read()
        try:
            yield url
        finally:
            server.send_signal(signal.SIGINT)
            try:
                _, errors = server.communicate(timeout=60)
            finally:
                server.kill()
        assert "Traceback" not in errors


@pytest.fixture
def page(browser, address) -> Iterator:
    """The opened page; whatever it asks of another host, or reports as an error, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(WAIT)
    opened = context.new_page()
    errors, hosts = [], set()
    opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    opened.goto(address)
    opened.wait_for_selector("canvas")
    yield opened
    context.close()
    assert errors == []
    assert hosts <= {urlsplit(address).netloc, ""}


def stroke(page, *points: tuple[float, float]) -> None:
    """Draws a line through points given in shares of the sheet."""
    canvas = page.locator("canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()


def test_it_opens_with_an_example_that_is_answered(page) -> None:
    assert "labelled 7" in page.locator("#answer").inner_text()
    assert page.locator("#copies .tile").count() == 10
    assert "can flip this" in page.locator("#proofs .l0").inner_text()
    assert "test image 0" in page.locator("#message").inner_text()
    assert "Beside it: mine.py:make" in page.locator("#guest h2").inner_text()
    assert page.locator("#guest .proven").count() >= 3
    slider = page.locator("input[type=range]")
    slider.focus()
    slider.press("End")
    page.wait_for_selector("#pictures .codebook.flipped")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "a phone does not show all of it"


def test_a_drawing_is_read_and_certified(page) -> None:
    stroke(page, (0.3, 0.2), (0.7, 0.2), (0.42, 0.82))
    page.wait_for_function(OF_A_DRAWING)
    assert page.locator("#answer .abs .digit").inner_text() == "7"
    assert page.locator("#copies .tile").count() == 10
    page.wait_for_function(SAME_PICTURE)
    assert "can flip this" in page.locator("#proofs .l0").inner_text()
    assert "codebook decision" in page.locator("#proofs .rule").inner_text()
    page.wait_for_selector("#guest >> text=being proven", state="detached")
    assert page.locator("#guest .radius").count() == 4
    page.get_by_role("button", name="Clear the paper").click()
    page.wait_for_selector("#message .hint")
    page.wait_for_selector("#answer .digit", state="detached")
    page.wait_for_selector("#proofs .radius", state="detached")


def test_the_slider_leads_a_test_image_to_another_class(page) -> None:
    stroke(page, (0.5, 0.2), (0.5, 0.8))
    page.wait_for_function(OF_A_DRAWING)
    page.get_by_label("Test image number").fill("1")
    page.wait_for_selector("#answer >> text=labelled 2")
    page.wait_for_selector("#found >> text=from 2 to")
    page.wait_for_selector("#pictures .codebook >> text=2, as before")
    assert page.evaluate(EMPTY_SHEET), "the drawing is still there"
    slider = page.locator("input[type=range]")
    slider.focus()
    slider.press("End")
    page.wait_for_selector("#pictures .codebook.flipped")
    assert "flipped from 2" in page.locator("#pictures .codebook").inner_text()


def test_quick_strokes_end_with_the_proofs_of_the_last(page) -> None:
    for points in (((0.2, 0.2), (0.8, 0.8)), ((0.8, 0.2), (0.2, 0.8)), ((0.5, 0.1), (0.5, 0.9))):
        stroke(page, *points)
        page.wait_for_timeout(200)
    page.wait_for_function(OF_A_DRAWING)
    page.wait_for_function(SAME_PICTURE)
    page.wait_for_timeout(1000)
    assert page.evaluate(SAME_PICTURE), "older proofs took the place of those of the last stroke"


def test_a_random_test_image_has_a_label(page) -> None:
    page.get_by_role("button", name="Any test image").click()
    page.wait_for_selector("#message .notice", state="detached")  # which told of the example
    page.wait_for_selector("#answer >> text=labelled")


def test_garbage_gets_a_sentence_and_no_answer(page) -> None:
    page.locator("input[type=file]").set_input_files(
        files=[{"name": "garbage.png", "mimeType": "image/png", "buffer": b"no picture"}]
    )
    page.wait_for_selector("#message .error")
    assert "garbage.png cannot be read as a picture" in page.locator("#message").inner_text()
    assert page.locator("#answer .digit").count() == 0
