"""The page itself: its figures equal the records, and it needs nothing but itself."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from PIL import Image

import absynth
from absynth.errors import AbsynthError
from absynth.evaluate.certification import CertificateRecord
from absynth.evaluate.tasks import weights_hash
from absynth.report.figures import confidence
from absynth.report.page import write_report
from absynth.report.results import read_results
from absynth.report.table_one import format_accuracy, format_median, table_one

RADII = (0.0, 1.0, 1.25, 1.5, 2.0, 2.25, 2.5, 2.75)
CERTIFICATES = {
    "codebook-abs": [
        CertificateRecord(index, 7, 7, "l2", radius, "pairwise", False) for index, radius in enumerate(RADII)
    ]
}


class Page(HTMLParser):
    """Cells of tables by their place, all identifiers, all addresses, and the text of each section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: dict[tuple[str, str, str], str] = {}
        self.lines: dict[str, list[list[str]]] = {}
        self.identifiers: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self._row: dict[str, str] = {}
        self._cell: tuple[str, str, str] | None = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.identifiers += [given["id"]] if "id" in given else []
        self.addresses += [given[name] for name in ("src", "href", "xlink:href") if name in given]
        if tag == "tr":
            self._row = given
            self.lines.setdefault(given.get("class", ""), []).append([])
        if tag in ("td", "th") and self._row:
            self.lines[self._row.get("class", "")][-1].append("")
            self._cell = None
            if "data-model" in given:
                self._cell = (self._row["data-norm"], self._row["data-attack"], given["data-model"])
                self.cells[self._cell] = ""

    def handle_endtag(self, tag):
        if tag == "tr":
            self._row, self._cell = {}, None

    def handle_data(self, data):
        self.text += data
        if self._row and self.lines[self._row.get("class", "")][-1]:
            self.lines[self._row.get("class", "")][-1][-1] += data
        if self._cell is not None:
            self.cells[self._cell] += data


@pytest.fixture(scope="module")
def report(small_results, tmp_path_factory):
    from absynth.progress import progress_display

    out = tmp_path_factory.mktemp("report")
    with progress_display(False) as progress:
        written = write_report(
            read_results(small_results.folder),
            out,
            certificates=CERTIFICATES,
            reference={},
            load_model=None,
            seed=5,
            progress=progress,
        )
    return written, out


def read(report) -> str:
    return report[0].page.read_text(encoding="utf-8")


def test_the_figures_on_the_page_are_the_records(report, small_results):
    cells = Page(read(report)).cells
    results = read_results(small_results.folder)
    expected = 0
    for row in (row for group in table_one(results) for row in group.rows):
        for model, cell in row.cells.items():
            shown = cells[row.norm or "", row.name, model]
            words = [format_median(cell, row.norm), format_accuracy(cell), row.sample_of(model)]
            assert shown.split("★")[0].split() == [word for word in words if word]
            assert ("★" in shown) == cell.best
            expected += 1
    assert expected == sum(text.strip() != "-" for text in cells.values()) > 0


def test_what_is_proven_stands_apart(report):
    text = read(report)
    (line,) = Page(text).lines["certified"]
    assert [cell.strip() for cell in line] == [
        "codebook-abs",
        "L2",
        "8",
        "1.75",
        "1.656",
        "62.5% at 1.5",
        "pairwise",
    ]
    attacked = text[text.index('id="table-1"') : text.index('id="table-2"')]
    certified = text[text.index('id="table-2"') : text.index('id="figure-1"')]
    assert "upper bounds" in attacked
    assert "certified" not in attacked.lower()
    assert "lower bounds" in certified
    assert "upper" not in certified


def test_the_origin_is_on_the_page(report, small_results):
    page = Page(read(report))
    results = read_results(small_results.folder)
    weights = {line[0].strip(): line[1].strip() for line in page.lines["weights"]}
    assert weights == results.weights
    origin = page.text[page.text.rindex("Where the figures come from") :]
    assert re.search(r"40 records of 8 test images of mnist", origin)
    assert re.search(r"Seed of the attacks\s*3\s", origin)
    assert re.search(r"page's choices\s*5\s", origin)
    assert f"absynth {absynth.__version__}" in origin


def test_the_page_needs_nothing_but_itself(report):
    text = read(report)
    page = Page(text)
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert "@import" not in text
    assert "@font-face" not in text
    assert len(set(page.identifiers)) == len(page.identifiers)
    anchors = {address[1:] for address in page.addresses if address.startswith("#")}
    assert anchors <= set(page.identifiers)
    used = set(re.findall(r"url\(#([^)]*)\)", text))
    assert used
    assert used <= set(page.identifiers)


def test_drawings_take_the_colour_of_the_page(report):
    drawings = re.findall(r"<svg.*?</svg>", read(report), flags=re.DOTALL)
    assert len(drawings) == 2 + 2 + 2
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert "currentColor" in drawing
        assert "#010203" not in drawing


def test_every_figure_is_a_file_too(report):
    _, out = report
    names = {f"figure-2-{norm}" for norm in ("l2", "l0")}
    names |= {f"figure-{number}-{model}" for number in (3, 5) for model in (1, 2)}
    files = {path.name for path in (out / "figures").iterdir()}
    assert files == {f"{name}{suffix}" for name in names for suffix in (".pdf", ".png")}
    for name in names:
        with Image.open(out / "figures" / f"{name}.png") as picture:
            assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert (out / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert {path.name for path in out.glob("table-1.*")} == {"table-1.md", "table-1.tex", "table-1.csv"}


def test_what_is_missing_is_said(report):
    written, _ = report
    told = "\n".join(written.remarks)
    assert "Figure 1. What ABS does to an image: Left out: no models were to be loaded." in told
    assert "Figure 4. Distal adversarials: Left out: none are recorded" in told
    text = Page(read(report)).text
    assert all(remark.split(": ", maxsplit=1)[1] in text for remark in written.remarks)


def test_a_name_is_no_markup(put_records, tmp_path, progress):
    name = "<b>$x$</b>"
    put_records(tmp_path / "results", name, "l2", "ddn", (1.0,) * 8)
    written = write_report(
        read_results(tmp_path / "results"),
        tmp_path / "report",
        certificates={},
        reference={},
        load_model=None,
        seed=0,
        progress=progress,
    )
    text = written.page.read_text(encoding="utf-8")
    assert name not in text
    assert "&lt;b&gt;$x$&lt;/b&gt;" in text


def test_a_report_needs_a_folder(small_results, tmp_path, progress):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(AbsynthError, match="is a file"):
        write_report(
            read_results(small_results.folder),
            path,
            certificates={},
            reference={},
            load_model=None,
            seed=0,
            progress=progress,
        )
    assert path.read_text() == "mine"


def test_with_models_every_figure_is_there(small_results, small_abs, bright, tmp_path, monkeypatch, progress):
    monkeypatch.setenv("ABSYNTH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(confidence, "SAMPLE", 4)
    models = {"abs": small_abs, "cnn": bright, "madry": bright}
    written = write_report(
        read_results(small_results.folder),
        tmp_path / "report",
        certificates={},
        reference={},
        load_model=models.__getitem__,
        seed=0,
        progress=progress,
    )
    files = {path.stem for path in (tmp_path / "report" / "figures").iterdir()}
    assert {"figure-1-classes", "figure-1-search", "latents-samples", "latents-walks"} <= files
    assert {f"confidence-{model}" for model in models} <= files
    # the models of the records do not exist, so those loaded cannot be the same
    told = [remark for remark in written.remarks if "figures that load it" in remark]
    assert [remark.split(":")[0] for remark in told] == ["abs", "cnn"]
    text = Page(written.page.read_text(encoding="utf-8")).text
    assert all(remark in text for remark in told)
    assert weights_hash(small_abs)[:12] in told[0]
