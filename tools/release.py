"""Builds the sdist and the wheel of the last commit, twice, and tries the wheel in a clean environment.

Run it as ``make release``. What it builds is in ``dist/`` only if both builds have the same bytes, the wheel
comes out of the sdist alone, and ``absynth classify`` reads a digit where nothing but the wheel and what it
needs is installed.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = (
    "import sys; from setuptools import build_meta; getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2])"
)
DRAW = """
import sys
from PIL import Image
import absynth
images, labels = absynth.load_dataset("mnist", "test")
Image.fromarray((images[0, 0] * 255).byte().numpy()).save(sys.argv[1])
print(int(labels[0]))
"""


def run(*command: str | Path, folder: Path = ROOT, **environment: str) -> str:
    """What a command prints; its failure is ours."""
    words = [str(word) for word in command]
    result = subprocess.run(
        words, cwd=folder, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if result.returncode:
        raise SystemExit(f"'{' '.join(words)}' failed; see above.")
    return result.stdout.strip()


def unpack(archive: Path | bytes, folder: Path) -> Path:
    """Unpacks a tar archive of one folder and returns that folder."""
    content = archive if isinstance(archive, bytes) else archive.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content)) as opened:
        opened.extractall(folder, filter="data")
    (inner,) = folder.iterdir()
    return inner


def build(kind: str, source: Path, folder: Path, epoch: str) -> Path:
    """Builds ``sdist`` or ``wheel`` of a tree that nothing else looks at, with the setuptools of here."""
    folder.mkdir(parents=True)
    run(sys.executable, "-c", BUILD, kind, folder, folder=source, SOURCE_DATE_EPOCH=epoch, PYTHONHASHSEED="0")
    (built,) = folder.iterdir()
    return built


def normalise(sdist: Path, epoch: str) -> None:
    """Writes an sdist anew without the times, owners and order of this build, which setuptools leaves in."""
    with tarfile.open(sdist) as archive:
        members = [(one, archive.extractfile(one)) for one in archive.getmembers()]
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as written:
            for member, content in sorted(members, key=lambda pair: pair[0].name):
                member.mtime, member.uid, member.gid, member.uname, member.gname = int(epoch), 0, 0, "", ""
                member.mode, member.pax_headers = 0o755 if member.isdir() else 0o644, {}
                written.addfile(member, content)
    sdist.write_bytes(gzip.compress(plain.getvalue(), mtime=int(epoch)))


def build_twice(place: Path) -> tuple[Path, Path]:
    """The sdist and the wheel, once they have come out the same twice.

    The second wheel is built of the first sdist, so that the sdist has been seen to be complete.
    """
    epoch = run("git", "log", "-1", "--format=%ct")
    content = subprocess.run(
        ["git", "archive", "--prefix=absynth/", "HEAD"], cwd=ROOT, check=True, stdout=subprocess.PIPE
    ).stdout
    built = []
    for number in ("first", "second"):
        sdist = build("sdist", unpack(content, place / number / "tree"), place / number / "sdist", epoch)
        normalise(sdist, epoch)
        tree = place / number / "again"
        source = unpack(content, tree) if not built else unpack(built[0][0], tree)
        built.append((sdist, build("wheel", source, place / number / "wheel", epoch)))
    for one, other in zip(*built, strict=True):
        if one.name != other.name or one.read_bytes() != other.read_bytes():
            raise SystemExit(f"{one.name} comes out with other bytes when it is built again.")
        print(f"{one.name}: the same bytes twice", flush=True)
    return built[0]


def try_wheel(wheel: Path, place: Path) -> None:
    """Installs a wheel in a clean environment, at the pinned versions, and classifies a digit there."""
    venv.create(place / "venv", with_pip=True)
    programs = place / "venv" / "bin"
    constraints = ROOT / "constraints.txt"
    run(programs / "python", "-m", "pip", "install", "--quiet", "--constraint", constraints, wheel)
    label = run(programs / "python", "-c", DRAW, place / "digit.png", folder=place)
    said = run(programs / "absynth", "classify", place / "digit.png", folder=place)
    if f": {label}, confidence" not in said:
        raise SystemExit(f"In the clean environment a {label} was answered with: {said}")
    print(f"{wheel.name}: installed in a clean environment, where it reads a {label}", flush=True)


def main() -> None:
    """Builds, compares, tries and keeps."""
    with tempfile.TemporaryDirectory(prefix="absynth-release-") as folder:
        built = build_twice(Path(folder))
        if "--no-install" not in sys.argv[1:]:
            try_wheel(built[1], Path(folder))
        (ROOT / "dist").mkdir(exist_ok=True)
        for path in built:
            shutil.copy(path, ROOT / "dist")


if __name__ == "__main__":
    main()
