"""1,000 random mutations of a file of each format that is read: read, or refused in one sentence."""

from __future__ import annotations

import base64
import gzip
import io
import json
import lzma
import random
import re
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from absynth.data.folders import read_image_folder
from absynth.data.readers import read_idx, read_npz
from absynth.data.sketch import PREFIX, read_sketch
from absynth.data.sources import NpmPackage, SourceError
from absynth.errors import AbsynthError
from absynth.evaluate.certification import CertificateRecord, write_certificates
from absynth.evaluate.config import read_preset
from absynth.evaluate.distal import Distal, read_distal, write_distal
from absynth.evaluate.store import Record, ResultStore
from absynth.evaluate.tasks import Task
from absynth.models.cnn import StridedCNN
from absynth.models.pretrained import load_folder
from absynth.models.prototypes import NearestNeighbour
from absynth.report import results as report
from absynth.report.curves import read_reference
from absynth.training.checkpoints import Run

MUTATIONS = 1000
SECONDS = 60
"""Of computing for all mutations of a format, most of which take a millisecond."""

MEMORY = 2**20
"""KiB that a format's mutations may take together beyond what was in use."""

SIDE = 16
GREY = np.arange(3 * SIDE * SIDE, dtype=np.uint32).reshape(3, SIDE, SIDE) * 7 % 256
GREY = GREY.astype(np.uint8)
TASK = Task("m", "w", "l2", "a", "{}", "mnist", "d", (7, 3), 0)
RECORDS = [Record("m", "w", "l2", "a", "{}", "mnist", 0, index, 1, index / 2, 5) for index in TASK.indices]

Read = Callable[[], object]
FORMATS: dict[str, Callable[[Path], tuple[Path, Read]]] = {}
"""By the name of a format, what writes a file of it into a folder and says how the file is read."""


def written(name: str) -> Callable[..., Any]:
    def keep(make: Callable[[Path], tuple[Path, Read]]) -> Callable[[Path], tuple[Path, Read]]:
        FORMATS[name] = make
        return make

    return keep


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.tobytes()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def idx_images(folder: Path, pack: Callable[[bytes], bytes]) -> tuple[Path, Read]:
    labels = put(folder / "labels", idx(np.array([0, 1, 2], np.uint8)))
    images = put(folder / "images", pack(idx(GREY)))
    return images, lambda: read_idx(images, labels)


FORMATS["IDX"] = lambda folder: idx_images(folder, bytes)
FORMATS["IDX, gzip"] = lambda folder: idx_images(folder, gzip.compress)
FORMATS["IDX, xz"] = lambda folder: idx_images(folder, lzma.compress)


@written("IDX, labels")
def _(folder: Path) -> tuple[Path, Read]:
    images, _ = idx_images(folder, bytes)
    return folder / "labels", lambda: read_idx(images, folder / "labels")


def npz(folder: Path, save: Callable[..., None]) -> tuple[Path, Read]:
    save(folder / "a.npz", images=GREY, labels=np.arange(3), class_names=np.array(["a", "b", "c"]))
    return folder / "a.npz", lambda: read_npz(folder / "a.npz")


FORMATS["npz"] = lambda folder: npz(folder, np.savez)
FORMATS["npz, compressed"] = lambda folder: npz(folder, np.savez_compressed)


def picture(folder: Path, name: str, save: Callable[[Path], object]) -> tuple[Path, Read]:
    (folder / "class").mkdir()
    save(folder / "class" / name)
    return folder / "class" / name, lambda: read_image_folder(folder, strict=True)


FORMATS["PNG"] = lambda folder: picture(folder, "a.png", Image.fromarray(GREY[0]).save)
FORMATS["JPEG"] = lambda folder: picture(folder, "a.jpg", Image.fromarray(GREY[0]).save)
FORMATS["npy"] = lambda folder: picture(folder, "a.npy", lambda path: np.save(path, GREY[0]))


@written("JPEG of a camera")
def _(folder: Path) -> tuple[Path, Read]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "turned"
    colour = Image.fromarray(np.stack([GREY[0]] * 3, axis=-1))
    return picture(folder, "a.jpg", lambda path: colour.save(path, exif=exif, progressive=True))


@written("a drawing")
def _(folder: Path) -> tuple[Path, Read]:
    buffer = io.BytesIO()
    Image.fromarray(GREY[0]).save(buffer, "PNG")
    path = put(folder / "drawing", (PREFIX + base64.b64encode(buffer.getvalue()).decode()).encode())
    return path, lambda: read_sketch(path.read_text(encoding="latin-1"))


def saved(folder: Path, name: str) -> tuple[Path, Read]:
    StridedCNN(2, (16, 16)).save_pretrained(folder)
    return folder / name, lambda: load_folder(folder)


FORMATS["config"] = lambda folder: saved(folder, "config.json")


@written("weights")
def _(folder: Path) -> tuple[Path, Read]:
    images, labels = torch.zeros(2, 1, 4, 4), torch.arange(2)
    NearestNeighbour(images, labels).save_pretrained(folder)
    return folder / "model.safetensors", lambda: load_folder(folder)


@written("TOML")
def _(folder: Path) -> tuple[Path, Read]:
    pytest.importorskip("tomllib", reason="reading TOML takes Python 3.11")
    text = (
        'models = ["cnn", "abs"]\nsuite = "quick"\nimages = 10\nseed = 3\n[attacks]\nl2 = ["ddn"]\n'
        'linf = "all"\n[fewer_images]\nddn = 5\n[thresholds]\nl2 = [0.5, 1.5]\n'
    )
    path = put(folder / "a.toml", text.encode())
    return path, lambda: read_preset(path)


def stored(folder: Path, kind: str, read: Callable[[ResultStore], object]) -> tuple[Path, Read]:
    store = ResultStore(folder)
    images = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    store.put(TASK, RECORDS, images, 1.5)
    store.put_json("clean", "w-1", {"right": 3, "images": 4})
    (path,) = (folder / kind).iterdir()
    return path, lambda: read(store)


def report_adversarial(folder: Path) -> object:
    report._read_adversarials.cache_clear()
    found = report.read_results(folder)
    return found.adversarial(found.findings[0])


FORMATS["records"] = lambda folder: stored(folder, "records", lambda store: store.records([TASK]))
FORMATS["adversarials"] = lambda folder: stored(
    folder, "adversarials", lambda store: store.adversarials(TASK)
)
FORMATS["seconds"] = lambda folder: stored(folder, "seconds", lambda store: store.seconds(TASK))
FORMATS["records, in a report"] = lambda folder: stored(
    folder, "records", lambda store: report.read_results(Path(store.folder))
)
FORMATS["adversarials, in a report"] = lambda folder: stored(
    folder, "adversarials", lambda store: report_adversarial(Path(store.folder))
)
FORMATS["clean accuracy, in a report"] = lambda folder: stored(
    folder, "clean", lambda store: report.read_results(Path(store.folder))
)


def certificates(folder: Path) -> Path:
    records = [CertificateRecord(i, 1, 1, "l2", i / 2, "pairwise", False, None) for i in range(5)]
    write_certificates(records, folder / "a.parquet")
    return folder / "a.parquet"


@written("certificates")
def _(folder: Path) -> tuple[Path, Read]:
    path = certificates(folder)
    return path, lambda: report.read_certificates([f"m={path}"])


@written("checkpoint")
def _(folder: Path) -> tuple[Path, Read]:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    schedule.step()
    run = Run(folder / "model.pt", {"seed": 0}, model, optimizer, schedule, torch.Generator())
    run.save([0.5])
    return run.checkpoint, run.restore


@written("distal")
def _(folder: Path) -> tuple[Path, Read]:
    confidences = {"m": torch.full((2,), 0.5)}
    steps = torch.tensor([3, 4])
    write_distal(
        [Distal("m", "w" * 64, 1, "exact", 0, 5, torch.zeros(2, 1, 4, 4), steps, confidences)], folder
    )
    (path,) = (folder / "distal").iterdir()
    return path, lambda: read_distal(folder)


@written("curves")
def _(folder: Path) -> tuple[Path, Read]:
    panel = {"models": {"ABS": {"distance": [0.0, 1.5], "accuracy": [99.0, 80.0]}}}
    path = put(folder / "a.json", json.dumps({"L2": panel}).encode())
    return path, lambda: read_reference(path)


@written("npm package")
def _(folder: Path) -> tuple[Path, Read]:
    content = put(folder / "digits", bytes(300))
    with tarfile.open(folder / "a.tgz", "w:gz") as archive:
        archive.add(content, "package/data/digits")

    def read() -> object:
        try:
            return NpmPackage("digits@1", "data").read("digits", folder)
        except SourceError as error:
            raise AbsynthError(str(error)) from None

    return folder / "a.tgz", read


def mutate(content: bytes, draw: random.Random) -> bytes:
    """One to three random edits: bytes set, inserted, removed, repeated or cut off, or a bit flipped."""
    for _ in range(draw.randint(1, 3)):
        place = draw.choice((draw.randrange(len(content) + 1), draw.randrange(min(len(content), 64) + 1)))
        head, tail = content[:place], content[place:]
        some = draw.choice((draw.randbytes(draw.randint(1, 8)), bytes([255] * 4), bytes(4), b"9", b"["))
        count = draw.choice((1, draw.randint(1, 64)))
        content = draw.choice(
            (
                head + some + tail[len(some) :],
                head + some + tail,
                head + tail[count:],
                head + tail[:count] + tail,
                head + bytes(byte ^ 1 << draw.randrange(8) for byte in tail[:1]) + tail[1:],
                head,
            )
        )
    return content


def most_memory() -> int:
    """The most memory in use since :func:`forget_most_memory`, in KiB."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


@pytest.fixture
def bounded() -> Iterator[None]:
    """Fails where all mutations of a format together take too long or too much memory."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"the mutations took more than {SECONDS} seconds of computing")

    peak = Path("/proc/self/clear_refs")
    if peak.exists():
        peak.write_text("5")
        before = most_memory()
    signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    if peak.exists():
        assert most_memory() - before < MEMORY


@pytest.mark.usefixtures("bounded", "every_call_checked")
@pytest.mark.parametrize("name", FORMATS)
def test_a_mutated_file_is_read_or_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    path, read = FORMATS[name](tmp_path)
    whole = path.read_bytes()
    read()
    refused = 0
    for number in range(MUTATIONS):
        content = mutate(whole, random.Random(f"{name} {number}"))
        path.unlink()  # a file cut to nothing and written anew waits for the disk
        path.write_bytes(content)
        try:
            read()
        except AbsynthError as error:
            assert len(str(error).splitlines()) == 1
            refused += 1
        except Exception as error:
            raise AssertionError(f"mutation {number} is no AbsynthError: {content!r}") from error
    assert refused > MUTATIONS / 20
